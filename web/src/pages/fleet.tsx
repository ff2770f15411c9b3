// All GPUs: a picture of every slice, and the same as a table.
import { useSignal, type Signal } from "@preact/signals";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { NOTHING, PROMISE, STATES, STATE_WORDS, STEPS, css, type Pair } from "../colours";
import { GPU_STATES, fleet, fleetError, fleetRevision, loadFleet, onGpus, profileOf, usedOf, usedOfAll, usersOf } from "../fleet";
import type { FleetState, Gpu, Instance } from "../fleet";
import { number, plural, scaled, share } from "../format";
import { FleetMap, step, type Paint } from "../map";
import type * as api from "../model";
import { Chart } from "../parts/chart";
import { Table, type Column } from "../parts/table";
import { Bar, Choice, State, Tile, Tiles, Trouble } from "../parts/tiles";
import { dark, filter, link, route, useDocument } from "../state";

const PAINTS: readonly (readonly [Paint, string])[] = [
  ["state", "State"],
  ["busy", "In use"],
  ["attainment", "In time"],
  ["energy", "Power"],
  ["plan", "Plan"],
];

export function FleetPage() {
  const paint = useSignal<Paint>("state");
  const service = useSignal(route.value.query.get("service") ?? "");
  const selected = useSignal<number | null>(null);
  useLayoutEffect(() => void (fleet.peek() ?? loadFleet()), []);
  const shown = fleet.value;
  if (fleetError.value && !shown) return <Trouble error={fleetError.value} />;
  if (!shown) return <p class="empty">Loading …</p>;
  if (!shown.gpus.length) {
    return (
      <>
        <h1>Fleet</h1>
        <p class="empty">
          No GPU is known here. On a host, <code>partita doctor</code> says why one is left out; without GPUs, <code>partita apply workload.yaml</code> makes a simulated cluster; on Kubernetes, GPUs stand here once a Workload is accepted.
        </p>
      </>
    );
  }
  return (
    <>
      <h1 class="unseen">Fleet</h1>
      <Summary of={shown} />
      <Picture of={shown} paint={paint} service={service} selected={selected} />
      <Legend of={shown} paint={paint.value} />
      {selected.value !== null && <Selected of={shown} gpu={selected.value} />}
      <History />
      <GpuTable of={shown} selected={selected} />
    </>
  );
}

function Summary({ of }: { of: FleetState }) {
  const revision = useSlow(500);
  const figures = useMemo(() => {
    const counted = { lost: 0, empty: 0, instances: 0, changing: 0, planned: 0, watts: null as number | null, told: 0 };
    for (const gpu of of.gpus) {
      counted.lost += Number(gpu.state === 3);
      counted.planned += Number(gpu.planned !== null);
      counted.empty += Number(gpu.instances.every((one) => one.service < 0 && !one.job));
      counted.instances += gpu.instances.length;
      counted.changing += Number(gpu.instances.some((one) => one.state === "changing"));
      if (gpu.watts === null) continue;
      counted.watts = (counted.watts ?? 0) + gpu.watts;
      counted.told += 1;
    }
    return { ...counted, ...usedOfAll(of) };
  }, [of, revision]);
  const changing = figures.planned ? `GPUs; other instances are planned on ${number(figures.planned)}` : "GPUs that are being cut";
  return (
    <Tiles>
      <Tile label="GPUs" value={number(of.gpus.length)} note={`on ${plural(of.nodes.length, "node")}; ${number(figures.empty)} without work`} />
      <Tile label="Held" value={share(figures.held)} note="of compute has work placed on it" />
      <Tile label="Working" value={share(figures.working)} note={figures.working === null ? "is not measured here" : "of compute is at work now"} />
      <Tile label="Instances" value={number(figures.instances)} note={`for ${plural(of.services.length, "service")} and jobs`} />
      <Tile label="Changing" value={number(figures.changing)} note={changing} />
      <Tile label="Power" value={scaled(figures.watts, "W")} note={figures.told === of.gpus.length ? "of all GPUs" : `of ${plural(figures.told, "GPU")} whose power is known`} />
      {figures.lost > 0 && <Tile label="Lost" value={number(figures.lost)} note="GPUs" bad />}
    </Tiles>
  );
}

interface PictureProps {
  readonly of: FleetState;
  readonly paint: Signal<Paint>;
  readonly service: Signal<string>;
  readonly selected: Signal<number | null>;
}

/** What matches the filter and the chosen service; null where all does. It is asked of each slice that is drawn. */
function matcher(of: FleetState, text: string, service: string): ((gpu: Gpu, instance: Instance) => boolean) | null {
  const wanted = text.trim().toLowerCase();
  const only = service ? of.services.indexOf(service) : -1;
  if (!wanted && only < 0) return null;
  const matches = (one: string) => one.toLowerCase().includes(wanted);
  const nodes = of.nodes.map(({ name, rack, zone }) => [name, rack, zone].some(matches));
  const gpus = of.gpus.map((gpu) => nodes[gpu.node]! || matches(gpu.id) || matches(gpu.model.name));
  const services = of.services.map(matches);
  const profiles = new Map(of.models.map((model) => [model, model.profiles.map((one) => matches(one.name))]));
  const states = new Set((Object.keys(STATE_WORDS) as api.InstanceState[]).filter((state) => matches(STATE_WORDS[state])));
  const runs = ({ shared, service }: Instance, is: (service: number) => boolean) => (shared ? shared.some(is) : service >= 0 && is(service));
  return (gpu, instance) => {
    if (only >= 0 && !runs(instance, (one) => one === only)) return false;
    if (gpus[gpu.at] || states.has(instance.state) || profiles.get(gpu.model)?.[instance.profile]) return true;
    return (instance.job !== null && matches(instance.job)) || runs(instance, (one) => services[one] ?? false);
  };
}

/** An instance in words. */
const told = (of: FleetState, gpu: Gpu, one: Instance) =>
  [
    `${profileOf(gpu, one).name}@${one.start}`,
    usersOf(of, one),
    one.busy !== null && `${share(one.busy)} in use`,
    one.attainment !== null && `${share(one.attainment)} in time`,
  ]
    .filter(Boolean)
    .join(", ");

const MOVED = 6; // CSS pixels from which a press is a drag

function Picture({ of, paint, service, selected }: PictureProps) {
  const frame = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const map = useRef<FleetMap | null>(null);
  const redraw = useRef<(gpus: readonly number[] | null) => void>(() => undefined);
  const zoomed = useSignal(false);
  const pointed = useSignal<{ x: number; y: number; words: string } | null>(null);

  useLayoutEffect(() => {
    const element = canvas.current!;
    const drawn = (map.current ??= new FleetMap(element, of));
    let asked = 0;
    let some: Set<number> | null = new Set();
    redraw.current = (gpus) => {
      if (gpus) gpus.forEach((gpu) => some?.add(gpu));
      else some = null;
      asked ||= requestAnimationFrame(() => {
        asked = 0;
        const began = performance.now();
        drawn.draw(some ? [...some] : null);
        element.dataset["drawn"] = (performance.now() - began).toFixed(1);
        zoomed.value = drawn.zoom > 1;
        some = new Set();
      });
    };
    let width = 0;
    const sized = new ResizeObserver(() => {
      const now = frame.current?.clientWidth ?? 0;
      if (!now || now === width) return;
      width = now;
      drawn.fit(of, width, Math.max(280, Math.min(1200, 0.62 * innerHeight)), devicePixelRatio);
      redraw.current(null);
    });
    sized.observe(frame.current!);
    const end = onGpus((gpus) => redraw.current(gpus));
    return () => {
      cancelAnimationFrame(asked);
      sized.disconnect();
      end();
    };
  }, [of]);

  useLayoutEffect(() => {
    if (!map.current) return;
    const lit = matcher(of, filter.value, service.value);
    map.current.view = { paint: paint.value, dark: dark.value, lit, selected: selected.value };
    redraw.current(null);
  }, [of, paint.value, dark.value, filter.value, service.value, selected.value]);

  const zoom = (x: number, y: number, factor: number) => {
    map.current?.zoomAt(x, y, factor);
    redraw.current(null);
  };
  const middle = (factor: number) => zoom(canvas.current!.clientWidth / 2, canvas.current!.clientHeight / 2, factor);
  const everything = () => {
    map.current?.reset();
    redraw.current(null);
  };
  const select = (gpu: number | null) => {
    selected.value = gpu;
    if (gpu !== null) map.current?.reveal(gpu);
  };
  useWheel(canvas, (event) => zoom(event.offsetX, event.offsetY, Math.exp(-event.deltaY / 300)));
  const pointers = useRef(new Map<number, { x: number; y: number }>());
  const moved = useRef(0);

  const hover = (x: number, y: number) => {
    const at = map.current?.at(x, y) ?? null;
    const gpu = at === null ? null : of.gpus[at];
    if (at === null || !gpu) return (pointed.value = null);
    const one = map.current!.instanceAt(at, y);
    return (pointed.value = { x, y, words: `${gpu.id}: ${one ? told(of, gpu, one) : "not cut here"}` });
  };
  const drag = (event: PointerEvent) => {
    const before = pointers.current.get(event.pointerId);
    if (!before || !map.current) {
      if (event.pointerType === "mouse") hover(event.offsetX, event.offsetY);
      return;
    }
    pointed.value = null;
    const [dx, dy] = [event.offsetX - before.x, event.offsetY - before.y];
    const other = [...pointers.current].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      const is = Math.hypot(event.offsetX - other.x, event.offsetY - other.y);
      map.current.zoomAt((event.offsetX + other.x) / 2, (event.offsetY + other.y) / 2, is / Math.max(1, was));
    } else map.current.panBy(dx, dy);
    moved.current += Math.abs(dx) + Math.abs(dy);
    pointers.current.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    redraw.current(null);
  };
  const key = (event: KeyboardEvent) => {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (direction) {
      const from = selected.value;
      select(from === null ? 0 : (map.current?.next(from, direction[0]!, direction[1]!) ?? from));
    } else if (event.key === "+" || event.key === "=") middle(1.5);
    else if (event.key === "-") middle(1 / 1.5);
    else if (event.key === "0") everything();
    else if (event.key === "Enter" && selected.value !== null) location.hash = link("gpu", of.gpus[selected.value]!.id);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  return (
    <>
      <div class="controls">
        <Choice
          legend="Colour"
          name="paint"
          value={paint}
          of={PAINTS.filter(([one]) => one !== "plan" || of.gpus.some((gpu) => gpu.planned))}
        />
        <label>
          Light up{" "}
          <select value={service.value} onChange={(event) => (service.value = event.currentTarget.value)}>
            <option value="">all services</option>
            {of.services.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <div class="zoom" role="group" aria-label="Zoom">
          <button type="button" aria-label="Zoom in" onClick={() => middle(1.6)}>
            +
          </button>
          <button type="button" aria-label="Zoom out" disabled={!zoomed.value} onClick={() => middle(1 / 1.6)}>
            −
          </button>
          <button type="button" disabled={!zoomed.value} onClick={everything}>
            All
          </button>
        </div>
      </div>
      <div class="picture" ref={frame}>
        <canvas
          ref={canvas}
          class={zoomed.value ? "zoomed" : ""}
          tabIndex={0}
          role="img"
          aria-label={`Picture of ${plural(of.gpus.length, "GPU")} and their slices. The table below has the same. Arrow keys walk from GPU to GPU, plus and minus zoom, Enter opens a GPU.`}
          onKeyDown={key}
          onPointerDown={(event) => {
            canvas.current?.setPointerCapture(event.pointerId);
            pointers.current.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
            moved.current = 0;
          }}
          onPointerMove={drag}
          onPointerUp={(event) => {
            pointers.current.delete(event.pointerId);
            if (moved.current < MOVED) select(map.current?.at(event.offsetX, event.offsetY) ?? null);
          }}
          onPointerCancel={(event) => pointers.current.delete(event.pointerId)}
          onPointerLeave={() => (pointed.value = null)}
          onDblClick={(event) => zoom(event.offsetX, event.offsetY, 2.5)}
        />
        {pointed.value && (
          <div
            class="pointed"
            aria-hidden="true"
            style={{
              top: `${pointed.value.y + 14}px`,
              ...(pointed.value.x < (frame.current?.clientWidth ?? 0) / 2
                ? { left: `${pointed.value.x + 10}px` }
                : { right: `${(frame.current?.clientWidth ?? 0) - pointed.value.x + 10}px` }),
            }}
          >
            {pointed.value.words}
          </div>
        )}
      </div>
    </>
  );
}

/** Turns of the wheel that are the picture's and not the page's: with Ctrl, or while the picture has the focus. */
function useWheel(canvas: { current: HTMLCanvasElement | null }, turn: (event: WheelEvent) => void): void {
  const latest = useRef(turn);
  latest.current = turn;
  useLayoutEffect(() => {
    const element = canvas.current!;
    const turned = (event: WheelEvent) => {
      if (!event.ctrlKey && document.activeElement !== element) return;
      event.preventDefault();
      latest.current(event);
    };
    element.addEventListener("wheel", turned, { passive: false });
    return () => element.removeEventListener("wheel", turned);
  }, []);
}

const BUSY = ["under 20 %", "20 to 40 %", "40 to 60 %", "60 to 80 %", "over 80 %"];
const IN_TIME = ["under 90 %", "90 to 95 %", "95 to 99 %", "99 to 99.9 %", "99.9 % or more"];
const WATTS = ["under 150 W", "150 to 300 W", "300 to 450 W", "450 to 600 W", "over 600 W"];

const LEGENDS: Readonly<Record<Exclude<Paint, "state" | "plan">, readonly [readonly string[], readonly Pair[]]>> = {
  busy: [BUSY, STEPS],
  attainment: [IN_TIME, PROMISE],
  energy: [WATTS, STEPS],
};

/** The colours, and how many instances (of power: GPUs) have each. */
function Legend({ of, paint }: { of: FleetState; paint: Paint }) {
  const revision = useSlow(1000);
  const entries = useMemo(() => {
    if (paint === "state" || paint === "plan") {
      const counts = new Map<api.InstanceState, number>();
      for (const gpu of of.gpus) {
        if (paint === "plan" && !gpu.planned) continue;
        for (const one of (paint === "plan" ? gpu.planned : gpu.instances) ?? []) counts.set(one.state, (counts.get(one.state) ?? 0) + 1);
      }
      return (Object.keys(STATES) as api.InstanceState[]).map((state) => [STATE_WORDS[state], STATES[state], counts.get(state) ?? 0] as const);
    }
    const [words, colours] = LEGENDS[paint];
    const counts = new Array<number>(words.length + 1).fill(0);
    for (const gpu of of.gpus) {
      for (const one of paint === "energy" ? [null] : gpu.instances) counts[step(paint, gpu, one) ?? words.length]! += 1;
    }
    return [...words, "not known"].map((word, i) => [word, colours[i] ?? NOTHING, counts[i]!] as const);
  }, [of, paint, revision]);
  return (
    <ul class="legend" aria-label="Colours">
      {entries.map(([word, pair, count]) => (
        <li key={word}>
          <i class="swatch" style={{ background: css(pair) }} aria-hidden="true" />
          {word} {number(count)}
        </li>
      ))}
    </ul>
  );
}

function Selected({ of, gpu: at }: { of: FleetState; gpu: number }) {
  const revision = fleetRevision.value;
  const gpu = of.gpus[at];
  if (!gpu || revision < 0) return null;
  return (
    <section class="selected" aria-live="polite" aria-label="Chosen GPU">
      <h2>
        <a href={link("gpu", gpu.id)}>{gpu.id}</a>{" "}
        <small>{`${gpu.model.name} on ${of.nodes[gpu.node]!.name}, ${GPU_STATES[gpu.state] ?? ""}`}</small>
      </h2>
      <ul>
        {gpu.instances.map((one) => (
          <li key={`${one.profile}@${one.start}`}>
            <State state={one.state} /> {told(of, gpu, one)}
          </li>
        ))}
        {gpu.instances.length === 0 && <li>It is not cut.</li>}
      </ul>
      {gpu.planned && <p>To be: {gpu.planned.map((one) => told(of, gpu, one)).join("; ") || "not cut"}</p>}
    </section>
  );
}

/** The last hour, where there is a history. */
function History() {
  const series = useDocument<api.Series>("fleet/series?seconds=3600", ["load"], 10);
  const found = series.data.value;
  if (!found || found.at.length < 2) return null;
  const { at, values } = found;
  const line = (name: string, key: string) => (values[key] ? [{ name, values: values[key] }] : []);
  return (
    <div class="charts">
      <Chart title="Held and working" at={at} lines={[...line("held", "held"), ...line("working", "working")]} show={share} most={1} height={130} together="fleet" />
      <Chart title="Power" at={at} lines={line("power", "watts")} show={(value) => scaled(value, "W")} height={130} together="fleet" />
    </div>
  );
}

interface Row {
  readonly at: number;
  readonly gpu: Gpu;
}

function columns(of: FleetState): readonly Column<Row>[] {
  const words = ({ gpu }: Row) =>
    gpu.instances.map((one) => `${profileOf(gpu, one).name} ${usersOf(of, one) || STATE_WORDS[one.state]}`).join(", ");
  const bar = (value: number | null) => <Bar share={value}>{share(value)}</Bar>;
  return [
    { title: "GPU", value: ({ gpu }) => gpu.id, show: ({ gpu }) => <a href={link("gpu", gpu.id)}>{gpu.id}</a> },
    { title: "Node", value: ({ gpu }) => of.nodes[gpu.node]!.name },
    { title: "Model", value: ({ gpu }) => gpu.model.name },
    { title: "State", value: ({ gpu }) => GPU_STATES[gpu.state] ?? null },
    { title: "Held", value: ({ gpu }) => usedOf(gpu).held, show: ({ gpu }) => bar(usedOf(gpu).held), number: true },
    { title: "Working", value: ({ gpu }) => usedOf(gpu).working, show: ({ gpu }) => bar(usedOf(gpu).working), number: true },
    { title: "Power", value: ({ gpu }) => gpu.watts, show: ({ gpu }) => scaled(gpu.watts, "W"), number: true },
    { title: "Instances", value: words, wide: true },
  ];
}

function GpuTable({ of, selected }: { of: FleetState; selected: Signal<number | null> }) {
  const revision = useSlow(1000);
  const shown = useMemo(() => columns(of), [of]);
  const all = useMemo(() => of.gpus.map((gpu, at) => ({ at, gpu })), [of]);
  const rows = useMemo(() => [...all], [all, revision]);
  const text = useMemo(
    () => (row: Row) => {
      const node = of.nodes[row.gpu.node]!;
      return [node.rack, node.zone, ...shown.map(({ value }) => value(row) ?? "")].join(" ");
    },
    [of, shown],
  );
  return (
    <section aria-label="GPUs as a table">
      <Table
        label="GPUs"
        rows={rows}
        columns={shown}
        name={({ gpu }) => gpu.id}
        text={text}
        onRow={({ at }) => (selected.value = at)}
        current={selected.value === null ? null : (of.gpus[selected.value]?.id ?? null)}
      />
    </section>
  );
}

/** The fleet's revision, at most every so many milliseconds. */
function useSlow(least: number): number {
  const slow = useSignal(fleetRevision.peek());
  useLayoutEffect(() => {
    let timer = 0;
    const end = fleetRevision.subscribe(() => {
      timer ||= setTimeout(() => {
        timer = 0;
        slow.value = fleetRevision.peek();
      }, least);
    });
    return () => {
      end();
      clearTimeout(timer);
    };
  }, []);
  return slow.value;
}
