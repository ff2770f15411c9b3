// GPUs that are cut alike, each kind drawn once; in a change, as they are before and after.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import type * as api from "../model";
import { milliseconds, plural } from "../format";
import { filter } from "../state";
import { Grid } from "./rows";

interface Spot {
  readonly profile: api.ProfileSize;
  readonly start: number;
  readonly state: api.InstanceState;
  readonly point: api.OperatingPoint | null;
  readonly services: readonly string[];
  /** In a change: whether the other side has it, too. */
  readonly stays: boolean;
}

interface Group {
  readonly model: api.GpuModel;
  readonly label: string;
  readonly ids: string[];
  readonly now: readonly Spot[];
  readonly then: readonly Spot[] | null;
  /** What the filter looks at. */
  readonly text: string;
}

type Columns = Pick<api.InstanceColumns, "gpu" | "profile" | "start" | "state" | "service">;

/** Indices of the instances of each GPU. */
function byGpu(columns: Columns, gpus: number): number[][] {
  const found: number[][] = Array.from({ length: gpus }, () => []);
  columns.gpu.forEach((gpu, i) => found[gpu]?.push(i));
  return found;
}

/** Neighbours joined: `node-0/gpu-0..3` for four GPUs. */
export function ranges(ids: readonly string[]): string[] {
  const found: { head: string; first: string; last: string }[] = [];
  for (const id of ids) {
    const [, head = id, last = ""] = /^(.*\D)(\d+)$/.exec(id) ?? [];
    const before = found.at(-1);
    if (before && last !== "" && before.head === head && Number(before.last) + 1 === Number(last)) before.last = last;
    else found.push({ head, first: last, last });
  }
  return found.map(({ head, first, last }) => (first === last ? `${head}${first}` : `${head}${first}..${last}`));
}

/** The GPUs of a part of a report in groups of equals, the largest first. */
function grouped(part: api.FleetPart): Group[] {
  const { fleet } = part;
  const count = fleet.gpus.id.length;
  const now = byGpu(fleet.instances, count);
  const planned = fleet.planned;
  const then = planned ? byGpu(planned, count) : null;
  const key = (columns: Columns, points: readonly number[], of: readonly number[]) =>
    of.map((i) => `${columns.profile[i]!},${columns.start[i]!},${columns.state[i]!},${points[i]!}`).join(";");
  const groups = new Map<string, Group>();
  fleet.gpus.id.forEach((id, gpu) => {
    const pool = part.pools[part.pool[gpu] ?? -1] ?? "";
    const node = fleet.nodes[fleet.gpus.node[gpu]!]!;
    const model = fleet.models[fleet.gpus.model[gpu]!]!;
    const before = key(fleet.instances, part.point, now[gpu]!);
    const after = planned && then ? key(planned, part.planned_point, then[gpu]!) : "";
    const same = [fleet.gpus.model[gpu]!, pool, node.zone, before, after].join("|");
    let group = groups.get(same);
    if (!group) {
      const here = spots(part, model, fleet.instances, part.point, now[gpu]!);
      const there = planned && then ? spots(part, model, planned, part.planned_point, then[gpu]!) : null;
      const label = model.name + (pool ? ` of ${pool}` : "") + (node.zone ? ` in zone ${node.zone}` : "");
      const services = [...here, ...(there ?? [])].flatMap((spot) => [spot.profile.name, spot.state, ...spot.services]);
      group = {
        model,
        label,
        ids: [],
        now: there ? marked(here, there) : here,
        then: there && marked(there, here),
        text: [label, ...services].join(" ").toLowerCase(),
      };
      groups.set(same, group);
    }
    group.ids.push(id);
  });
  return [...groups.values()].sort((a, b) => b.ids.length - a.ids.length);
}

function spots(
  part: api.FleetPart,
  model: api.GpuModel,
  columns: api.InstanceColumns,
  points: readonly number[],
  of: readonly number[],
): Spot[] {
  return of.map((i) => {
    const all = columns.shared[i] ?? (columns.service[i]! < 0 ? [] : [columns.service[i]!]);
    return {
      profile: model.profiles[columns.profile[i]!]!,
      start: columns.start[i]!,
      state: part.fleet.states[columns.state[i]!] ?? "free",
      point: part.points[points[i]!] ?? null,
      services: all.map((service) => part.fleet.services[service] ?? ""),
      stays: true,
    };
  });
}

const marked = (here: readonly Spot[], there: readonly Spot[]): Spot[] =>
  here.map((spot) => ({
    ...spot,
    stays: there.some(
      (other) =>
        other.start === spot.start &&
        other.profile === spot.profile &&
        other.state === spot.state &&
        other.point?.service === spot.point?.service &&
        other.point?.batch === spot.point?.batch &&
        other.point?.processes === spot.point?.processes,
    ),
  }));

const rate = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const about = (point: api.OperatingPoint) => (point.estimated ? "≈" : "");

function title(spot: Spot): string {
  if (spot.point) return spot.point.service;
  return spot.state === "foreign" ? "someone else's" : "idle";
}

/** All that is known of an instance, in words. */
function words(spot: Spot): string {
  const { point } = spot;
  if (!point) return title(spot);
  const figures = `${about(point)}${rate.format(point.throughput)}/s`;
  if (point.tenants.length > 0) {
    const memory = point.megabytes === null ? "" : `${about(point)}${rate.format(point.megabytes)} MB, `;
    return `${point.tenants.join(", ")} share it: ${memory}${figures} together`;
  }
  const processes = point.processes > 1 ? `, ${point.processes} processes` : "";
  const model = point.model === point.service ? "" : ` (${point.model})`;
  return `${point.service}${model}: batch ${point.batch}${processes}, ${figures}, ${about(point)}${milliseconds(point.latency_ms)}`;
}

const LAYOUT = 84; // pixels of height of one drawing

export function Groups({ part, label }: { part: api.FleetPart; label: string }) {
  const all = useMemo(() => grouped(part), [part]);
  const wanted = filter.value.trim().toLowerCase();
  const shown = useMemo(
    () =>
      wanted ? all.filter((group) => group.text.includes(wanted) || group.ids.some((id) => id.toLowerCase().includes(wanted))) : all,
    [all, wanted],
  );
  const chosen = useSignal<Group | null>(null);
  const gpus = shown.reduce((sum, group) => sum + group.ids.length, 0);
  const height = 58 + (part.fleet.planned ? 2 * LAYOUT + 16 : LAYOUT);
  return (
    <div class="groups">
      <p class="count" role="status">
        {plural(gpus, "GPU")}, cut in {plural(shown.length, "way")}
        {wanted && ` that match “${filter.value.trim()}”`}
        {part.left > 0 && `; ${plural(part.left, "more GPU")} are not drawn here, the JSON file has all`}
      </p>
      <Grid
        label={label}
        count={shown.length}
        height={height}
        least={290}
        card={(i) => <Card key={i} group={shown[i]!} wanted={wanted} onOpen={(group) => (chosen.value = group)} />}
      />
      {chosen.value && <Details group={chosen.value} onClose={() => (chosen.value = null)} />}
    </div>
  );
}

function Card({ group, wanted, onOpen }: { group: Group; wanted: string; onOpen: (group: Group) => void }) {
  return (
    <button type="button" class="card" aria-haspopup="dialog" onClick={() => onOpen(group)}>
      <span class="head">
        <b>× {group.ids.length.toLocaleString("en")}</b> {group.label}
      </span>
      <span class="ids">{ranges(group.ids).slice(0, 12).join(", ")}</span>
      <Cut model={group.model} spots={group.now} sign={group.then ? "−" : ""} wanted={wanted} />
      {group.then && (
        <>
          <span class="arrow" aria-label="then">
            ↓
          </span>
          <Cut model={group.model} spots={group.then} sign="+" wanted={wanted} />
        </>
      )}
    </button>
  );
}

interface CutProps {
  readonly model: api.GpuModel;
  readonly spots: readonly Spot[];
  /** Stands before what the other side does not have. */
  readonly sign: "" | "−" | "+";
  readonly wanted: string;
}

/** A GPU, each instance as wide as its memory slices, with a mark for each of its compute slices. */
function Cut({ model, spots, sign, wanted }: CutProps) {
  const boxes = [];
  let at = 0;
  const free = (until: number) => {
    for (; at < until; at += 1) boxes.push(<span key={at} class="none" />);
  };
  for (const spot of spots) {
    free(spot.start);
    const { memory, compute, name } = spot.profile;
    const lit = wanted !== "" && spot.services.some((service) => service.toLowerCase().includes(wanted));
    const kind = spot.stays || !sign ? (spot.point ? "stays" : spot.state) : sign === "−" ? "goes" : "comes";
    boxes.push(
      <span key={at} class={`on ${kind}${lit ? " lit" : ""}${memory === 1 ? " slim" : ""}`} style={{ gridColumn: `span ${memory}` }}>
        <b>
          {!spot.stays && sign ? `${sign} ` : ""}
          {title(spot)}
        </b>
        <i>{name}</i>
        {spot.point && (
          <small>
            {about(spot.point)}
            {rate.format(spot.point.throughput)}/s{spot.point.tenants.length > 0 ? " shared" : ""}
          </small>
        )}
        <u aria-hidden="true" style={{ "--compute": compute }} />
      </span>,
    );
    at = spot.start + memory;
  }
  free(model.memory_slices);
  return (
    <span class="layout" style={{ gridTemplateColumns: `repeat(${model.memory_slices}, minmax(0, 1fr))` }}>
      {boxes}
    </span>
  );
}

function Details({ group, onClose }: { group: Group; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => dialog.current?.showModal(), []);
  const side = (heading: string, all: readonly Spot[]) => (
    <>
      <h3>{heading}</h3>
      <ul>
        {all.map((spot) => (
          <li key={spot.start}>
            <b>
              {spot.profile.name}@{spot.start}
            </b>{" "}
            {words(spot)}
            {!spot.stays && (all === group.now ? " (goes)" : " (comes)")}
          </li>
        ))}
        {all.length === 0 && <li>not cut</li>}
      </ul>
    </>
  );
  return (
    <dialog ref={dialog} class="details" aria-labelledby="details" onClose={onClose}>
      <h2 id="details">
        {plural(group.ids.length, "GPU")} <small>{group.label}</small>
      </h2>
      {side(group.then ? "Before" : "Instances", group.now)}
      {group.then && side("After", group.then)}
      <h3>GPUs</h3>
      <p class="all" tabIndex={0}>
        {ranges(group.ids).join(", ")}
      </p>
      <form method="dialog">
        <button type="submit">Close</button>
      </form>
    </dialog>
  );
}
