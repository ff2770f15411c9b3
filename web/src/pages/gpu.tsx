// One GPU: how it is cut and what runs on it now, how it was cut before, its events, and who used its energy.
import { useLayoutEffect } from "preact/hooks";
import { STATE_WORDS, css, inkOn, STATES } from "../colours";
import { fleet, loadFleet } from "../fleet";
import { duration, milliseconds, number, scaled, share, time } from "../format";
import type * as api from "../model";
import { EVENT_COLUMNS } from "../parts/events";
import { Table, type Column } from "../parts/table";
import { Bar, Loaded, State, Tile, Tiles } from "../parts/tiles";
import { link, route, source, useDocument } from "../state";

export function GpuPage() {
  const path = `gpus/${encodeURIComponent(route.value.rest)}`;
  const gpu = useDocument<api.Gpu>(path, ["gpu", "load"], 2);
  const history = useDocument<api.GpuHistory>(`${path}/history`, ["gpu", "event"], 2);
  useLayoutEffect(() => void (fleet.peek() ?? loadFleet()), []);
  return (
    <Loaded of={gpu}>
      {(one) => (
        <>
          <Now gpu={one} />
          {source.live && <Loaded of={history}>{(past) => <Past gpu={one} history={past} />}</Loaded>}
        </>
      )}
    </Loaded>
  );
}

const serviceLinks = (names: readonly string[]) =>
  names.map((name, i) => (
    <span key={name}>
      {i > 0 && ", "}
      <a href={link("services", name)}>{name}</a>
    </span>
  ));

const INSTANCES: readonly Column<api.InstanceDetail>[] = [
  { title: "Slice", value: (one) => one.start, show: (one) => `${one.profile}@${one.start}` },
  { title: "State", value: (one) => STATE_WORDS[one.state], show: (one) => <State state={one.state} /> },
  {
    title: "For",
    value: (one) => one.job ?? one.services.join(", "),
    show: (one) => (one.job ? <a href={link("jobs", one.job)}>{one.job}</a> : one.services.length ? serviceLinks(one.services) : "–"),
  },
  { title: "In use", value: (one) => one.busy, show: (one) => <Bar share={one.busy}>{share(one.busy)}</Bar>, number: true },
  { title: "Items/s", value: (one) => one.throughput, show: (one) => number(one.throughput), number: true, hint: "Capacity, as planned" },
  { title: "Batch", value: (one) => one.batch, number: true },
  { title: "Latency", value: (one) => one.latency_ms, show: (one) => milliseconds(one.latency_ms), number: true, hint: "Of a batch, as planned" },
  { title: "Slowdown", value: (one) => one.slowdown, show: (one) => (one.slowdown === null ? "–" : `${number(one.slowdown)}×`), number: true, hint: "Time of its batches, beside instances of its size" },
  { title: "GPU instance", value: (one) => one.gpu_instance_id, number: true },
  { title: "MIG UUID", value: (one) => one.mig_uuid, show: (one) => (one.mig_uuid ? <code>{one.mig_uuid}</code> : "–") },
];

function Now({ gpu }: { gpu: api.Gpu }) {
  return (
    <>
      <div class="heading">
        <h1>{gpu.id}</h1>
        <p>
          {gpu.model} on {gpu.node}, {gpu.state} · {gpu.uuid && <code>{gpu.uuid} · </code>}<a href={link("fleet")}>Fleet</a>
        </p>
      </div>
      <Tiles>
        <Tile label="State" value={gpu.state} bad={gpu.state === "lost"} />
        <Tile label="Held" value={share(gpu.held)} note="of compute has work placed on it" />
        <Tile label="Working" value={share(gpu.working)} note="of compute is at work now" />
        <Tile label="Fragmentation" value={share(gpu.fragmentation)} note="of free memory that the largest slice cannot use" />
        <Tile label="Power" value={scaled(gpu.watts, "W")} />
        <Tile label="Instances" value={number(gpu.instances.length)} />
      </Tiles>
      <section aria-label="Instances">
        <h2>Now</h2>
        <Cut
          model={gpu.model}
          slices={gpu.instances.map((one) => ({
            profile: one.profile,
            start: one.start,
            words: `${one.profile} ${one.job ?? (one.services.join(", ") || STATE_WORDS[one.state])}`,
            state: one.state,
          }))}
        />
        <Table
          label="Instances"
          rows={gpu.instances}
          columns={INSTANCES}
          name={(one) => `${one.profile}@${one.start}`}
          filtered={false}
          empty="It is not cut: all of it is free, until a plan or a job needs a slice."
        />
      </section>
    </>
  );
}

interface Slice {
  readonly profile: string;
  readonly start: number;
  readonly words: string;
  readonly state: api.InstanceState;
}

/** A GPU's memory slices from left to right, and what they are cut into. */
function Cut({ model, slices }: { model: string; slices: readonly Slice[] }) {
  const known = fleet.value?.models.find((one) => one.name === model);
  if (!known) return null;
  const size = (profile: string) => known.profiles.find((one) => one.name === profile)?.memory ?? 1;
  return (
    <div class="cut" aria-hidden="true" style={{ gridTemplateColumns: `repeat(${known.memory_slices}, minmax(0, 1fr))` }}>
      {slices.map((one) => (
        <span
          key={one.start}
          style={{
            gridRow: 1,
            gridColumn: `${one.start + 1} / span ${size(one.profile)}`,
            background: `var(--${one.state})`,
            color: css([inkOn(STATES[one.state][0]), inkOn(STATES[one.state][1])]),
          }}
        >
          {one.words}
        </span>
      ))}
    </div>
  );
}

/** Such as `3g.40gb@4 photo-search`. */
function parsed(text: string): Slice {
  const [, profile = text, start = "0", who = ""] = /^(\S+?)@(\d+)\s*(.*)$/.exec(text) ?? [];
  return { profile, start: Number(start), words: `${profile} ${who}`, state: who ? "serving" : "free" };
}

const ENERGY: readonly Column<api.EnergyRow>[] = [
  { title: "Kind", value: (one) => one.kind },
  { title: "Name", value: (one) => one.name },
  { title: "Energy", value: (one) => one.joules, show: (one) => scaled(one.joules, "J"), number: true },
  { title: "GPU time", value: (one) => one.seconds, show: (one) => duration(one.seconds), number: true },
  { title: "Cost", value: (one) => one.cost, show: (one) => number(one.cost), number: true },
];

function Past({ gpu, history }: { gpu: api.Gpu; history: api.GpuHistory }) {
  return (
    <>
      <section aria-label="Cuts">
        <h2>Cuts</h2>
        {history.since !== null && <p>Cuts and events are known since {time(history.since)}; what was before, the controller of that time did.</p>}
        {history.cuts.length === 0 && <p class="empty">No earlier cut is known: it was not cut otherwise since the journal began.</p>}
        <ol class="cuts">
          {history.cuts.map((cut) => (
            <li key={cut.at}>
              <time>{time(cut.at)}</time>
              <div>
                <Cut model={gpu.model} slices={cut.instances.map(parsed)} />
                <small>{cut.instances.join(", ") || "not cut"}</small>
              </div>
            </li>
          ))}
        </ol>
      </section>
      <section aria-label="Energy">
        <h2>Energy</h2>
        <Table label="Energy" rows={history.energy} columns={ENERGY} name={(one) => `${one.kind} ${one.name}`} sort={-3} empty="No energy of it was measured in this time. `partita daemon` and `partita run --jobs` measure while they run." />
      </section>
      <section aria-label="Events">
        <h2>Events</h2>
        <Table label="Events" rows={history.events} columns={EVENT_COLUMNS} name={(one) => String(one.number)} empty="Nothing has happened on it yet." />
      </section>
    </>
  );
}
