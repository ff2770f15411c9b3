// Change: transitions as they were predicted and as they go, and what the plan would change.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { duration, number, plural, share, time } from "../format";
import type * as api from "../model";
import { EVENT_COLUMNS } from "../parts/events";
import { useOnce } from "../parts/once";
import { Table, type Column } from "../parts/table";
import { Bar, Loaded, Tile, Tiles, Trouble, WorkloadChoice } from "../parts/tiles";
import { TransitionView } from "../parts/timeline";
import { Refusal } from "../source";
import { documentOf, has, index, link, mayWrite, route, said, source, useDocument } from "../state";

const WORDS: Readonly<Record<api.TransitionState, string>> = {
  waiting: "waits for approval",
  running: "running",
  paused: "paused",
  reached: "reached",
  stopped: "stopped",
  replaced: "replaced",
};

/** Where a change begins, for those who look and those who may write. */
const HowTo = () => (
  <>
    {has("what-if") && (
      <>
        To try one, open <a href={link("what-if")}>What if</a>, where it can be applied with a token that may write.{" "}
      </>
    )}
    {/* A cluster's state is its controller's; on a host it is whoever runs the command. */}
    On a host: <code>partita apply plan.json</code>; on Kubernetes: <code>kubectl edit workload</code>.
  </>
);

const Never = () => (
  <p class="empty">
    No plan was applied yet, so there is nothing to compare with what runs. <HowTo />
  </p>
);

export function ChangePage() {
  const [told] = useState(said.peek());
  useLayoutEffect(() => () => void (said.value = ""), []);
  const page = useDocument<api.TransitionPage>("transitions?limit=100", ["transition"]);
  return (
    <>
      <h1>Change</h1>
      {told && <p role="status">{told}</p>}
      <Loaded of={page}>
        {({ transitions }) => {
          const wanted = route.value.rest;
          const shown = transitions.find((one) => one.id === wanted)?.id ?? (wanted || transitions[0]?.id);
          return (
            <>
              {shown && <One id={shown} key={shown} />}
              {has("plan") ? <Planned /> : !shown && <Never />}
              {transitions.length > 0 && (
                <section aria-label="All transitions">
                  <h2>All, newest first</h2>
                  <Table label="Transitions" rows={transitions} columns={COLUMNS} name={(one) => one.id} current={shown ?? null} />
                </section>
              )}
            </>
          );
        }}
      </Loaded>
    </>
  );
}

/** What a transition means that has no actions. */
const NO_ACTIONS: Readonly<Record<api.TransitionState, string>> = {
  waiting: "it begins once it is approved",
  running: "its actions are being ordered",
  paused: "its actions are being ordered",
  reached: "all ran as planned already",
  stopped: "it stopped before its first action",
  replaced: "another took its place first",
};

const done = ({ done, actions, state }: api.Transition) =>
  actions ? `${number(done)} of ${number(actions)}` : state === "reached" ? "nothing to do" : "–";

const COLUMNS: readonly Column<api.Transition>[] = [
  { title: "Begun", value: (one) => one.at, show: (one) => <a href={link("change", one.id)}>{time(one.at)}</a> },
  { title: "State", value: (one) => WORDS[one.state] },
  {
    title: "Done",
    value: (one) => (one.actions ? one.done / one.actions : null),
    show: (one) => (one.actions ? <Bar share={one.done / one.actions}>{done(one)}</Bar> : done(one)),
    number: true,
  },
  { title: "Predicted", value: (one) => one.seconds, show: (one) => duration(one.seconds), number: true },
  { title: "Took", value: (one) => (one.ended === null ? null : one.ended - one.at), show: (one) => duration(one.ended === null ? null : one.ended - one.at), number: true },
  { title: "Planned anew", value: (one) => one.replans, number: true },
  { title: "Command", value: (one) => one.command, wide: true },
];

/** A transition with its actions of all pages; the first page has its capacity and notes. */
async function whole(path: string): Promise<api.TransitionDetail> {
  const first = (await source.get(`${path}?limit=1000`)) as api.TransitionDetail;
  const actions = [...first.actions];
  for (let after = first.next; after !== null; ) {
    const page = (await source.get(`${path}?limit=1000&after=${encodeURIComponent(after)}`)) as api.TransitionDetail;
    for (const action of page.actions) actions.push(action);
    after = page.next;
  }
  return { ...first, actions, next: null };
}

function One({ id }: { id: string }) {
  const detail = useDocument<api.TransitionDetail>(`transitions/${encodeURIComponent(id)}`, ["transition", "event"], 1, whole);
  return <Loaded of={detail}>{(found) => <Shown detail={found} />}</Loaded>;
}

function Shown({ detail }: { detail: api.TransitionDetail }) {
  const { transition, actions } = detail;
  const open = transition.state === "running" || transition.state === "paused";
  const heard = useMemo(() => actions.reduce((latest, action) => Math.max(latest, action.began ?? 0, action.ended ?? 0), 0), [actions]);
  const seconds = useSecondsSince(transition.at, open);
  const now = open ? Math.max(heard, seconds) : null;
  const failed = actions.filter((action) => action.error !== null).length;
  return (
    <section aria-label="Transition">
      <div class="heading">
        <h2>
          {time(transition.at)}: {WORDS[transition.state]}
        </h2>
        <p>
          <code>{transition.command}</code>
        </p>
      </div>
      <Tiles>
        <Tile label="Done" value={done(transition)} note={transition.actions ? share(transition.done / transition.actions) : NO_ACTIONS[transition.state]} />
        <Tile label="Predicted" value={duration(transition.seconds)} note="for the whole" />
        <Tile label="Took" value={duration(transition.ended === null ? now : transition.ended - transition.at)} note={open ? "until now" : "from begin to end"} />
        <Tile label="Planned anew" value={number(transition.replans)} note="as the cluster changed" />
        {failed > 0 && <Tile label="Failed" value={number(failed)} note="actions, tried again" bad />}
      </Tiles>
      <Controls transition={transition} />
      {actions.length > 0 && <TransitionView detail={detail} now={now} label="transition" />}
      {detail.notes.length > 0 && (
        <section aria-label="Notes">
          <h3>Notes</h3>
          <Table label="Notes" rows={detail.notes} columns={EVENT_COLUMNS} name={(one) => String(one.number)} filtered={false} />
        </section>
      )}
    </section>
  );
}

const OTHER_CLOCK = 43_200; // seconds that a cluster's clock differs at least where it is a simulated one

/** Seconds since a time of the cluster's clock, each second anew; 0 where that clock is a simulated one. */
function useSecondsSince(at: number, wanted: boolean): number {
  const clock = useSignal(Date.now() / 1000);
  useLayoutEffect(() => {
    if (!wanted) return;
    const timer = setInterval(() => (clock.value = Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, [wanted]);
  const simulated = Math.abs((index.value?.now ?? 0) - clock.value) > OTHER_CLOCK;
  return simulated ? 0 : Math.max(0, clock.value - at);
}

/** Pause, go on, approve: for who may write, and for the state that is shown. */
function Controls({ transition }: { transition: api.Transition }) {
  const { busy, error, run } = useOnce();
  if (!mayWrite.value) return null;
  const path = `transitions/${encodeURIComponent(transition.id)}`;
  const send = async (what: string) => {
    try {
      // What is sent holds for the state that is shown, and is refused in another one.
      await source.send("POST", `${path}/${what}`, undefined, `${transition.id}.${transition.state}`);
    } finally {
      // Also what was refused may be in another state by now.
      await Promise.all(["transitions?limit=100", path].map((one) => documentOf(one).load()));
    }
  };
  const button = (what: string, word: string) => (
    <button type="button" disabled={busy} onClick={() => void run(() => send(what))}>
      {word}
    </button>
  );
  return (
    <div class="controls">
      {transition.state === "running" && button("pause", "Pause")}
      {transition.state === "paused" && button("resume", "Go on")}
      {transition.state === "waiting" && button("approve", "Approve")}
      {error && <Trouble error={error} />}
    </div>
  );
}

const DIFFERENCE: readonly Column<api.ServiceDifference>[] = [
  { title: "Service", value: (one) => one.name, show: (one) => <a href={link("services", one.name)}>{one.name}</a> },
  { title: "Now/s", value: (one) => one.before, show: (one) => number(one.before), number: true },
  { title: "Then/s", value: (one) => one.after, show: (one) => number(one.after), number: true },
  { title: "Floor/s", value: (one) => one.floor, show: (one) => number(one.floor), number: true },
  { title: "Least/s", value: (one) => one.least, show: (one) => number(one.least), number: true, hint: "Of all orders in which the actions may happen" },
  { title: "Stay", value: (one) => one.stay, number: true },
  { title: "Move", value: (one) => one.move, number: true },
  { title: "New", value: (one) => one.new, number: true },
  { title: "End", value: (one) => one.end, number: true },
];

function Planned() {
  const workload = useSignal("");
  const query = workload.value ? `?workload=${encodeURIComponent(workload.value)}` : "";
  const plan = useDocument<api.PlanSummary>(`plan${query}`, ["transition"]);
  const difference = useDocument<api.Difference>(`plan/difference${query}`, ["transition"], 5);
  const among = useRef<readonly string[]>([]); // they stay when one without a plan is chosen
  if (plan.data.value) among.current = plan.data.value.workloads;
  const { error } = plan;
  if (!workload.value && error.value instanceof Refusal && error.value.status === 404) return <Never />;
  return (
    <section aria-label="Plan against now">
      <h2>The plan, and what differs from it now</h2>
      <WorkloadChoice of={workload.value || (plan.data.value?.workload ?? "")} among={among.current} choose={(name) => (workload.value = name)} />
      <Loaded of={plan}>
        {(one) => (
          <Tiles>
            <Tile label="GPUs" value={number(one.gpus)} note="of the plan that was applied last" />
            <Tile label="Proof" value={one.proven ? "optimal" : "open"} note={one.verdict} />
            <Tile label="Instances" value={number(one.instances)} />
            {one.cost !== null && <Tile label="Cost per hour" value={number(one.cost)} />}
          </Tiles>
        )}
      </Loaded>
      <Loaded of={difference}>
        {(found) =>
          found.actions === 0 ? (
            <p>
              The deployment is as planned: nothing is left to do. <HowTo />
            </p>
          ) : (
            <>
              <p>
                {plural(found.actions, "action")} on {plural(found.gpus.length, "GPU")} lead there in {duration(found.seconds)},{" "}
                {plural(found.moves, "move")}.
              </p>
              <Table label="Plan against now" rows={found.services} columns={DIFFERENCE} name={(one) => one.name} empty="No service moves: idle instances are created or destroyed." />
            </>
          )
        }
      </Loaded>
    </section>
  );
}
