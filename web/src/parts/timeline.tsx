// A transition over time: each action on its GPU, the capacity of each service over its floor, GPUs in use; predicted
// and, where it ran, actual. A slider looks at one moment of all of it.
import { useSignal } from "@preact/signals";
import { useMemo, useRef } from "preact/hooks";
import type { ComponentChildren } from "preact";
import type * as api from "../model";
import { duration, number, plural } from "../format";
import { filter } from "../state";
import { Grid, Rows, useWidth } from "./rows";
import { Key, Steps, rounds, valueAt, type StepLine } from "./steps";
import { Table, type Column } from "./table";
import { Tile, Tiles } from "./tiles";

const SIGNS: Readonly<Record<string, string>> = {
  create_instance: "+",
  destroy_instance: "×",
  start_replica: "▶",
  stop_replica: "■",
};
const WORDS: Readonly<Record<string, string>> = {
  create_instance: "create instance",
  destroy_instance: "destroy instance",
  start_replica: "start replica",
  stop_replica: "stop replica",
};
const kindWords = (kind: string) => WORDS[kind] ?? kind.replaceAll("_", " ");
const what = (action: api.ActionBar) => `${kindWords(action.kind)} ${action.service ?? ""}`.trim();

const LANE = matchMedia("(pointer: coarse)").matches ? 47 : 19; // pixels; fingers need 44
const ROOM = 7; // pixels between GPUs
const NAME = 132; // pixels for a GPU's name
const SECONDS = 6; // moments on a time axis

interface Lane {
  readonly actions: api.ActionBar[];
}

interface GpuLanes {
  readonly gpu: string;
  readonly lanes: readonly Lane[];
}

const begins = (action: api.ActionBar) => Math.min(action.begin, action.began ?? action.begin);
const ends = (action: api.ActionBar) => Math.max(action.end, action.ended ?? action.end);

const MANY = 2000; // actions whose rows are not all drawn
const CROWD = 100; // actions of a lane that are all drawn
const APART = 6; // pixels between the begins of two actions that are told apart

/** Those of a lane's actions that can be told apart; all that failed, and all where they are few. */
function toldApart(actions: readonly api.ActionBar[], pixels: number): readonly api.ActionBar[] {
  if (actions.length <= CROWD) return actions;
  let last = -Infinity;
  return actions.filter((action) => {
    const far = pixels * (begins(action) - last) >= APART;
    if (far) last = begins(action);
    return far || action.error !== null;
  });
}

/** Actions by GPU, in order of its first one; those of one placement in one lane, in as few lanes as possible. */
function lanesOf(actions: readonly api.ActionBar[]): GpuLanes[] {
  const gpus = new Map<string, Map<string, api.ActionBar[]>>();
  for (const action of [...actions].sort((a, b) => begins(a) - begins(b))) {
    const placements = gpus.get(action.gpu) ?? new Map<string, api.ActionBar[]>();
    gpus.set(action.gpu, placements);
    const run = placements.get(action.placement);
    if (run) run.push(action);
    else placements.set(action.placement, [action]);
  }
  return [...gpus].map(([gpu, placements]) => {
    const lanes: { actions: api.ActionBar[]; end: number }[] = [];
    for (const run of placements.values()) {
      const last = run.reduce((latest, action) => Math.max(latest, ends(action)), 0);
      const free = lanes.find((lane) => lane.end <= begins(run[0]!) + 1e-9);
      if (free) {
        free.actions.push(...run);
        free.end = last;
      } else lanes.push({ actions: run, end: last });
    }
    return { gpu, lanes };
  });
}

interface Props {
  readonly detail: api.TransitionDetail;
  readonly inUse?: api.CapacityLine | null;
  /** Actions that are not in `detail`. */
  readonly left?: number;
  /** Seconds since its begin, where it runs now. */
  readonly now?: number | null;
  readonly label: string;
}

export function TransitionView({ detail, inUse = null, left = 0, now = null, label }: Props) {
  const { actions } = detail;
  const until = useMemo(() => actions.reduce((latest, action) => Math.max(latest, ends(action)), Math.max(1e-9, now ?? 0)), [actions, now]);
  const moment = useSignal<number | null>(null);
  const ran = actions.some((action) => action.began !== null);
  const at = moment.value ?? now ?? (ran ? until : null);
  const ticks = useMemo(() => rounds(until, SECONDS).map((second) => ({ at: second, text: `${number(second)} s` })), [until]);
  if (actions.length === 0) return <p class="empty">Nothing happens.</p>;
  return (
    <div class="over-time">
      <div class="moment">
        <label>
          Moment{" "}
          <input
            type="range"
            min={0}
            max={until}
            step={until / 500}
            value={at ?? 0}
            onInput={(event) => (moment.value = Number(event.currentTarget.value))}
          />
        </label>
        <output>{at === null ? "all" : duration(at)}</output>
        {moment.value !== null && (
          <button type="button" onClick={() => (moment.value = null)}>
            {now === null ? "All" : "Now"}
          </button>
        )}
      </div>
      <Moment detail={detail} inUse={inUse} at={at ?? 0} ran={ran} />
      <Gantt detail={detail} until={until} at={at} now={now} label={label} />
      {left > 0 && <p class="count">{plural(left, "more action")} are not drawn here, the JSON file has all.</p>}
      <h3>Capacity over floors</h3>
      <Capacities label={label} lines={detail.capacity} inUse={inUse} until={until} ticks={ticks} at={at} />
      <details class="all-actions">
        <summary>{plural(actions.length, "action")} as a table</summary>
        <Table label={`Actions: ${label}`} rows={actions} columns={ran ? ACTUAL : PREDICTED} name={(action) => action.id} />
      </details>
    </div>
  );
}

const second = (value: number | null) => (value === null ? "–" : `${value.toFixed(1)} s`);
const PREDICTED: readonly Column<api.ActionBar>[] = [
  { title: "Action", value: what },
  { title: "GPU", value: (action) => action.gpu },
  { title: "Placement", value: (action) => action.placement },
  { title: "Begin", value: (action) => action.begin, show: (action) => second(action.begin), number: true },
  { title: "End", value: (action) => action.end, show: (action) => second(action.end), number: true },
];
const ACTUAL: readonly Column<api.ActionBar>[] = [
  ...PREDICTED,
  { title: "Began", value: (action) => action.began, show: (action) => second(action.began), number: true },
  { title: "Ended", value: (action) => action.ended, show: (action) => second(action.ended), number: true },
  { title: "Error", value: (action) => action.error },
];

/** What is so at one moment. */
function Moment({ detail, inUse, at, ran }: { detail: api.TransitionDetail; inUse: api.CapacityLine | null; at: number; ran: boolean }) {
  const { actions } = detail;
  const done = actions.filter((action) => (ran ? action.ended !== null && action.ended <= at + 1e-9 : action.end <= at + 1e-9));
  const begun = actions.filter((action) => (ran ? action.began !== null && action.began <= at : action.begin <= at));
  let nearest: { service: string; over: number } | null = null;
  for (const line of detail.capacity) {
    const value = valueAt(line.actual.length ? line.actual : line.predicted, at);
    if (value === null || line.floor <= 0) continue;
    const over = value / line.floor - 1;
    if (!nearest || over < nearest.over) nearest = { service: line.service, over };
  }
  const used = inUse && valueAt(inUse.actual.length ? inUse.actual : inUse.predicted, at);
  return (
    <Tiles>
      <Tile label="Done" value={`${number(done.length)} of ${number(actions.length)}`} note="actions at this moment" />
      <Tile label="Under way" value={number(Math.max(0, begun.length - done.length))} note="actions at this moment" />
      {nearest && (
        <Tile
          label="Nearest to its floor"
          value={`${nearest.over >= 0 ? "+" : "−"}${(100 * Math.abs(nearest.over)).toFixed(1)} %`}
          note={nearest.service}
          bad={nearest.over < -1e-6}
        />
      )}
      {used !== null && <Tile label="GPUs in use" value={number(used)} note="at this moment" />}
    </Tiles>
  );
}

interface GanttProps {
  readonly detail: api.TransitionDetail;
  readonly until: number;
  readonly at: number | null;
  readonly now: number | null;
  readonly label: string;
}

function Gantt({ detail, until, at, now, label }: GanttProps) {
  const { actions } = detail;
  const wanted = filter.value.trim().toLowerCase();
  const rows = useMemo(() => {
    const found = wanted
      ? actions.filter((action) => [action.gpu, action.placement, what(action)].join(" ").toLowerCase().includes(wanted))
      : actions;
    return lanesOf(found);
  }, [actions, wanted]);
  const heights = useMemo(() => rows.map((row) => row.lanes.length * LANE + ROOM), [rows]);
  const chosen = useSignal<api.ActionBar | null>(null);
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const narrow = width < 560;
  const left = narrow ? 0 : NAME;
  const share = (value: number) => (100 * Math.min(value, until)) / until;
  const told = useMemo(() => {
    const pixels = (width - left) / until; // of a second
    return rows.map((row) => row.lanes.map((lane) => toldApart(lane.actions, pixels)));
  }, [rows, width, until]);
  const hidden = told.reduce((sum, lanes, i) => lanes.reduce((all, lane, n) => all + rows[i]!.lanes[n]!.actions.length - lane.length, sum), 0);
  return (
    <section aria-label={`Timeline: ${label}`}>
      <ul class="legend" aria-label="Actions">
        {Object.entries(SIGNS).map(([kind, sign]) => (
          <li key={kind}>
            <b class={`sample ${kind}`}>{sign}</b> {kindWords(kind)}
          </li>
        ))}
        {actions.some((action) => action.began !== null) && (
          <li>
            <b class="sample ghost" /> as predicted
          </li>
        )}
      </ul>
      <div ref={box} class="gantt" style={{ "--name": `${left}px` }}>
        <div class="axis" aria-hidden="true">
          {rounds(until, narrow ? 3 : SECONDS).map((second) => (
            <span key={second} class={share(second) > 90 ? "end" : ""} style={{ left: `${share(second)}%` }}>
              {number(second)} s
            </span>
          ))}
        </div>
        {width > 0 && (
          <Rows
            label={`Actions of each GPU: ${label}`}
            {...(actions.length > MANY ? { few: 1 } : {})}
            heights={narrow ? heights.map((height) => height + 18) : heights}
            row={(i) => (
              <div class={narrow ? "gpu narrow" : "gpu"}>
                <span class="gpu-name">{rows[i]!.gpu}</span>
                <div class="lanes">
                  {told[i]!.map((lane, n) =>
                    lane.map((action) => (
                      <Action key={action.id} action={action} lane={n} share={share} now={now} chosen={chosen.value === action} onChoose={() => (chosen.value = chosen.value === action ? null : action)} />
                    )),
                  )}
                  {at !== null && <i class="cursor" style={{ left: `${share(at)}%` }} />}
                </div>
              </div>
            )}
          />
        )}
        {rows.length === 0 && <p class="empty">Nothing matches the filter.</p>}
      </div>
      {hidden > 0 && <p class="count">{plural(hidden, "action")} too close to others to be told apart {hidden === 1 ? "is" : "are"} in the table below alone.</p>}
      <p class="chosen" role="status">
        {chosen.value ? <Said action={chosen.value} /> : "Choose an action to read it; the table below has all."}
      </p>
    </section>
  );
}

function Said({ action }: { action: api.ActionBar }): ComponentChildren {
  const actual =
    action.began === null
      ? ""
      : action.ended === null
        ? `; began at ${second(action.began)}`
        : `; actually ${second(action.began)} to ${second(action.ended)}`;
  return (
    <>
      <b>{what(action)}</b> on {action.gpu}, {action.placement}: {second(action.begin)} to {second(action.end)}
      {action.began === null ? "" : " predicted"}
      {actual}
      {action.error && `; failed: ${action.error}`}
    </>
  );
}

interface ActionProps {
  readonly action: api.ActionBar;
  readonly lane: number;
  readonly share: (value: number) => number;
  readonly now: number | null;
  readonly chosen: boolean;
  readonly onChoose: () => void;
}

function Action({ action, lane, share, now, chosen, onChoose }: ActionProps) {
  const ran = action.began !== null;
  const begin = action.began ?? action.begin;
  const end = ran ? (action.ended ?? now ?? action.end) : action.end;
  const place = (from: number, to: number) => ({
    top: `${lane * LANE}px`,
    left: `${share(from)}%`,
    width: `${Math.max(0, share(to) - share(from))}%`,
  });
  return (
    <>
      {ran && <i class="ghost" style={place(action.begin, action.end)} />}
      <b
        class={["action", action.kind, action.error ? "failed" : "", chosen ? "chosen" : "", ran || now === null ? "" : "coming"].join(" ")}
        style={place(begin, Math.max(begin, end))}
        onClick={onChoose}
      >
        {SIGNS[action.kind] ?? ""} {action.service ?? action.placement}
      </b>
    </>
  );
}

interface CapacitiesProps {
  readonly label: string;
  readonly lines: readonly api.CapacityLine[];
  readonly inUse: api.CapacityLine | null;
  readonly until: number;
  readonly ticks: readonly { readonly at: number; readonly text: string }[];
  readonly at: number | null;
}

const CHART = 108; // pixels of height
const CARD = CHART + 46;

function Capacities({ label, lines, inUse, until, ticks, at }: CapacitiesProps) {
  const wanted = filter.value.trim().toLowerCase();
  const shown = useMemo(() => {
    const found = lines.filter((line) => !wanted || line.service.toLowerCase().includes(wanted));
    return inUse && !wanted ? [inUse, ...found] : found;
  }, [lines, inUse, wanted]);
  const ran = lines.some((line) => line.actual.length > 0);
  const key = [
    ...(ran ? [{ name: "actual", look: "area" }] : []),
    { name: "predicted", look: ran ? "dashes" : "area" },
    { name: "floor", look: "dots" },
  ];
  return (
    <>
      <Key lines={key} />
      <Grid label={`Capacity of each service: ${label}`} count={shown.length} height={CARD} least={270} card={(i) => <Capacity key={i} label={label} line={shown[i]!} gpus={shown[i] === inUse} until={until} ticks={ticks} at={at} />} />
      {shown.length === 0 && <p class="empty">{wanted ? "Nothing matches the filter." : "No service has a floor here."}</p>}
    </>
  );
}

interface CapacityProps {
  readonly label: string;
  readonly line: api.CapacityLine;
  readonly gpus: boolean;
  readonly until: number;
  readonly ticks: CapacitiesProps["ticks"];
  readonly at: number | null;
}

function Capacity({ label, line, gpus, until, ticks, at }: CapacityProps) {
  const { actual, predicted, floor, before } = line;
  const ran = actual.length > 0;
  const told = ran ? actual : predicted;
  const least = Math.min(...told.map(([, value]) => value));
  const most = Math.max(...told.map(([, value]) => value));
  const value = at === null ? null : valueAt(told, at);
  const drawn: StepLine[] = [
    { name: "floor", points: [[0, floor]], look: "dots" },
    { name: "predicted", points: [[0, before], ...predicted], look: ran ? "dashes" : "area" },
    ...(ran ? [{ name: "actual", points: [[0, before] as const, ...actual], look: "area" } as const] : []),
  ];
  const unit = gpus ? "" : "/s";
  const summary = gpus
    ? `most ${number(most)}, ${number(floor)} without extra`
    : `least ${number(least)}${unit}, ${floor > 0 ? `floor ${number(floor)}${unit}` : "no floor"}`;
  return (
    <section class="capacity" aria-label={`${line.service}: ${label}`}>
      <h4>
        <span>{line.service}</span> {value !== null && <small>{`${number(value)}${unit} at this moment`}</small>}
      </h4>
      <p>{summary}</p>
      <Steps
        label={`${line.service} over time: ${summary}`}
        lines={floor > 0 ? drawn : drawn.slice(1)}
        until={until}
        height={CHART}
        ticks={ticks}
        say={number}
        cursor={at}
      />
    </section>
  );
}
