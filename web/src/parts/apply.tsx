// A what-if that is applied: what it will do is shown first, and holds for the state that it was shown for.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { duration, number, plural } from "../format";
import type * as api from "../model";
import { link, said, source } from "../state";
import { useOnce } from "./once";
import { Table, type Column } from "./table";
import { Tile, Tiles, Trouble } from "./tiles";

/** What is to be different, of which workload; whether a cluster's controller plans it. */
export interface Change {
  readonly workload: string;
  readonly services: Readonly<Record<string, api.ServiceWhatIf>>;
  readonly pools: Readonly<Record<string, api.PoolWhatIf>>;
  readonly cluster: boolean;
}

interface Shown {
  readonly answer: api.WhatIfAnswer;
  readonly difference: api.Difference;
}

const SECONDS = 10; // of search, at most

/** The plan of a change, and what lies between it and what runs. */
async function lookedAt({ workload, services, pools }: Change): Promise<Shown> {
  const question = { workload, services, pools, until: "plan", seconds: SECONDS, document: true, client: "" };
  const answer = (await source.send("POST", "what-if", question)) as api.WhatIfAnswer;
  if (!answer.plan) throw new Error(answer.why ?? "No plan was found in time.");
  const query = workload ? `?workload=${encodeURIComponent(workload)}` : "";
  const difference = (await source.send("POST", `plan/difference${query}`, { plan: answer.plan.document, change: null })) as api.Difference;
  return { answer, difference };
}

const SERVICES: readonly Column<api.ServiceDifference>[] = [
  { title: "Service", value: (one) => one.name },
  { title: "Now/s", value: (one) => one.before, show: (one) => number(one.before), number: true },
  { title: "Then/s", value: (one) => one.after, show: (one) => number(one.after), number: true },
  { title: "Least/s", value: (one) => one.least, show: (one) => number(one.least), number: true, hint: "Of all orders in which the actions may happen" },
  { title: "Moves", value: (one) => one.move + one.new + one.end, number: true },
];
const BINDS: readonly Column<readonly [string, string]>[] = [
  { title: "Service", value: ([name]) => name },
  { title: "Bound by", value: ([, text]) => text, wide: true },
];

export function ApplyDialog({ change, close }: { change: Change; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const shown = useSignal<Shown | null>(null);
  const { busy, error, run } = useOnce();
  const look = () => run(async () => void (shown.value = await lookedAt(change)));
  const apply = ({ difference }: Shown) =>
    run(async () => {
      const { workload, services, pools, cluster } = change;
      const body = { plan: null, change: { workload, services, pools } };
      const begun = (await source.send("POST", "apply", body, difference.state)) as api.Accepted;
      said.value = begun.text;
      location.hash = cluster ? link("change") : link("change", begun.id);
    });
  useLayoutEffect(() => {
    dialog.current?.showModal();
    void look();
  }, []);
  const found = shown.value;
  return (
    <dialog ref={dialog} class="apply" aria-labelledby="apply-title" aria-busy={busy} onClose={close}>
      <h2 id="apply-title">Apply this change?</h2>
      {found ? <Will shown={found} cluster={change.cluster} /> : !error && <p class="empty">Planning it, and what lies between it and what runs …</p>}
      {error && <Trouble error={error} />}
      <form method="dialog" class="controls">
        {found && (
          <button type="button" class="primary" disabled={busy || error !== null} onClick={() => void apply(found)}>
            Apply
          </button>
        )}
        {error && (
          <button type="button" disabled={busy} onClick={() => void look()}>
            Look again
          </button>
        )}
        <button>Leave all as it is</button>
      </form>
    </dialog>
  );
}

function Will({ shown: { answer, difference }, cluster }: { shown: Shown; cluster: boolean }) {
  const gpus = answer.plan?.gpus ?? null;
  const binds = Object.entries(answer.binds);
  return (
    <>
      <Tiles>
        <Tile label="GPUs" value={number(gpus)} note={answer.now === null ? "of its plan" : `now ${number(answer.now)}`} />
        <Tile label="At most" value={number(difference.peak_gpus)} note="GPUs meanwhile" />
        <Tile label="Moves" value={number(difference.moves)} note={`${plural(difference.actions, "action")} on ${plural(difference.gpus.length, "GPU")}`} />
        <Tile label="Takes" value={duration(difference.seconds)} note="as predicted; every floor is kept" />
      </Tiles>
      {difference.actions === 0 && <p>All runs so already: no instance is touched.</p>}
      <p>
        {cluster
          ? "The Workload is changed; its controller plans it anew, which may find another plan that is as good."
          : "This plan is carried out. The workload's file stays as it is: write the change there, too, or the next plan of it takes this one back."}
      </p>
      {difference.services.length > 0 && <Table label="Services that move" rows={difference.services} columns={SERVICES} name={(one) => one.name} filtered={false} />}
      {binds.length > 0 && <Table label="What binds what is changed" rows={binds} columns={BINDS} name={([name]) => name} filtered={false} />}
    </>
  );
}
