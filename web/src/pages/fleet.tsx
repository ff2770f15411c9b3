// All GPUs: a picture of every slice, and the same as a table.
import { useSignal, type Signal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { NOTHING, PROMISE, STATES, STATE_WORDS, STEPS, css, type Pair } from "../colours";
import { fleet, fleetError, fleetRevision, heldAndWorking, loadFleet, onGpus, profileOf, GPU_STATES } from "../fleet";
import type { FleetState, Gpu, Instance } from "../fleet";
import { number, plural, scaled, share } from "../format";
import { FleetMap, type Paint } from "../map";
import type * as api from "../model";
import { Table, type Column } from "../parts/table";
import { Bar, Choice, State, Tile, Tiles, Trouble } from "../parts/tiles";
import { dark, filter, link, route } from "../state";

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
  useEffect(() => void (fleet.peek() ?? loadFleet()), []);
  const shown = fleet.value;
  if (fleetError.value && !shown) return <Trouble error={fleetError.value} />;
  if (!shown) return <p class="empty">Loading …</p>;
  return (
    <>
      <h1 class="unseen">Fleet</h1>
      <Summary of={shown} />
      <div class="controls">
        <Choice
          legend="Colour"
          name="paint"
          value={paint}
          of={PAINTS.filter(([one]) => one !== "plan" || shown.gpus.some((gpu) => gpu.planned))}
        />
        <label>
          Light up{" "}
          <select value={service.value} onChange={(event) => (service.value = event.currentTarget.value)}>
            <option value="">all services</option>
            {shown.services.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
      </div>
      <Picture of={shown} paint={paint} service={service} selected={selected} />
      <Legend paint={paint.value} />
      {selected.value !== null && <Selected of={shown} gpu={selected.value} />}
      <GpuTable of={shown} selected={selected} />
    </>
  );
}

function Summary({ of }: { of: FleetState }) {
  const revision = fleetRevision.value;
  const figures = useMemo(() => {
    const lost = of.gpus.filter((gpu) => gpu.state === 3).length;
    const empty = of.gpus.filter((gpu) => gpu.instances.every((one) => one.service < 0 && !one.job)).length;
    const instances = of.gpus.reduce((sum, gpu) => sum + gpu.instances.length, 0);
    const changing = of.gpus.filter((gpu) => gpu.instances.some((one) => one.state === "changing")).length;
    const watts = of.gpus.reduce<number | null>((sum, gpu) => (gpu.watts === null ? sum : (sum ?? 0) + gpu.watts), null);
    return { ...heldAndWorking(of), lost, empty, instances, changing, watts };
  }, [of, revision]);
  return (
    <Tiles>
      <Tile label="GPUs" value={number(of.gpus.length)} note={`${plural(of.nodes.length, "node")}, ${number(figures.empty)} without work`} />
      <Tile label="Instances" value={number(figures.instances)} note={`on ${plural(of.services.length, "service")} and jobs`} />
      <Tile label="Held" value={share(figures.held)} note="of compute has work placed on it" />
      <Tile label="Working" value={share(figures.working)} note="of compute is at work now" />
      <Tile label="Power" value={scaled(figures.watts, "W")} note="of GPUs that tell" />
      <Tile label="Changing" value={number(figures.changing)} note="GPUs being cut" />
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

/** What matches the filter and the chosen service; null where all does. */
function matcher(of: FleetState, text: string, service: string): ((gpu: Gpu, instance: Instance | null) => boolean) | null {
  const wanted = text.trim().toLowerCase();
  const only = service ? of.services.indexOf(service) : -1;
  if (!wanted && only < 0) return null;
  const named = of.services.map((name) => name.toLowerCase().includes(wanted));
  const nodes = of.nodes.map(({ name, rack, zone }) => `${name} ${rack} ${zone}`.toLowerCase().includes(wanted));
  const runs = (instance: Instance, is: (service: number) => boolean) =>
    instance.shared ? instance.shared.some(is) : instance.service >= 0 && is(instance.service);
  return (gpu, instance) => {
    if (only >= 0 && !(instance && runs(instance, (one) => one === only))) return false;
    if (!wanted || nodes[gpu.node] || gpu.id.toLowerCase().includes(wanted)) return true;
    if (gpu.model.name.toLowerCase().includes(wanted)) return true;
    if (!instance) return false;
    if (profileOf(gpu, instance).name.includes(wanted) || instance.job?.toLowerCase().includes(wanted)) return true;
    return instance.state.includes(wanted) || runs(instance, (one) => named[one] ?? false);
  };
}

function Picture({ of, paint, service, selected }: PictureProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const map = useRef<FleetMap | null>(null);
  const redraw = useRef<(gpus: readonly number[] | null) => void>(() => undefined);

  useEffect(() => {
    const element = canvas.current!;
    const drawn = (map.current ??= new FleetMap(element, of));
    let asked = 0;
    let some: Set<number> | null = new Set();
    redraw.current = (gpus) => {
      if (gpus) gpus.forEach((gpu) => some?.add(gpu));
      else some = null;
      asked ||= requestAnimationFrame(() => {
        asked = 0;
        drawn.draw(some ? [...some] : null);
        some = new Set();
      });
    };
    const sized = new ResizeObserver(() => {
      if (!element.clientWidth || !element.clientHeight) return; // it is being taken off the page
      drawn.fit(of, element.clientWidth, element.clientHeight, devicePixelRatio);
      redraw.current(null);
    });
    sized.observe(element);
    const end = onGpus((gpus) => redraw.current(gpus));
    return () => {
      cancelAnimationFrame(asked);
      sized.disconnect();
      end();
    };
  }, [of]);

  useEffect(() => {
    if (!map.current) return;
    map.current.view = {
      paint: paint.value,
      dark: dark.value,
      lit: matcher(of, filter.value, service.value),
      selected: selected.value,
    };
    redraw.current(null);
  }, [of, paint.value, dark.value, filter.value, service.value, selected.value]);

  const zoom = (x: number, y: number, factor: number) => {
    map.current?.zoomAt(x, y, factor);
    redraw.current(null);
  };
  const middle = (factor: number) => zoom(canvas.current!.clientWidth / 2, canvas.current!.clientHeight / 2, factor);
  const select = (gpu: number | null) => {
    selected.value = gpu;
    if (gpu !== null) map.current?.reveal(gpu);
  };
  useWheel(canvas, (event) => zoom(event.offsetX, event.offsetY, Math.exp(-event.deltaY / 300)));
  const pointers = useRef(new Map<number, { x: number; y: number }>());
  const moved = useRef(0);

  const key = (event: KeyboardEvent) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      const from = selected.value;
      select(from === null ? 0 : (map.current?.next(from, step[0]!, step[1]!) ?? from));
    } else if (event.key === "+" || event.key === "=") middle(1.5);
    else if (event.key === "-") middle(1 / 1.5);
    else if (event.key === "0") {
      map.current?.reset();
      redraw.current(null);
    } else if (event.key === "Enter" && selected.value !== null) location.hash = link("gpu", of.gpus[selected.value]!.id);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  return (
    <div class="picture">
      <canvas
        ref={canvas}
        tabIndex={0}
        role="img"
        aria-label={`Picture of ${plural(of.gpus.length, "GPU")} and their slices. The table below has the same. Arrow keys walk from GPU to GPU, plus and minus zoom, Enter opens a GPU.`}
        onKeyDown={key}
        onPointerDown={(event) => {
          canvas.current?.setPointerCapture(event.pointerId);
          pointers.current.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
          moved.current = 0;
        }}
        onPointerMove={(event) => {
          const before = pointers.current.get(event.pointerId);
          if (!before || !map.current) return;
          const dx = event.offsetX - before.x;
          const dy = event.offsetY - before.y;
          const other = [...pointers.current].find(([id]) => id !== event.pointerId)?.[1];
          if (other) {
            const was = Math.hypot(before.x - other.x, before.y - other.y);
            const is = Math.hypot(event.offsetX - other.x, event.offsetY - other.y);
            map.current.zoomAt((event.offsetX + other.x) / 2, (event.offsetY + other.y) / 2, is / Math.max(1, was));
          } else map.current.panBy(dx, dy);
          moved.current += Math.abs(dx) + Math.abs(dy);
          pointers.current.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
          redraw.current(null);
        }}
        onPointerUp={(event) => {
          pointers.current.delete(event.pointerId);
          if (moved.current < 6) select(map.current?.at(event.offsetX, event.offsetY) ?? null);
        }}
        onPointerCancel={(event) => pointers.current.delete(event.pointerId)}
        onDblClick={(event) => zoom(event.offsetX, event.offsetY, 2.5)}
      />
      <div class="zoom">
        <button type="button" aria-label="Zoom in" onClick={() => middle(1.6)}>
          +
        </button>
        <button type="button" aria-label="Zoom out" onClick={() => middle(1 / 1.6)}>
          −
        </button>
        <button
          type="button"
          onClick={() => {
            map.current?.reset();
            redraw.current(null);
          }}
        >
          All
        </button>
      </div>
    </div>
  );
}

/** Wheel events that may be kept from scrolling the page: with Ctrl, or while the picture has the focus. */
function useWheel(canvas: { current: HTMLCanvasElement | null }, turn: (event: WheelEvent) => void): void {
  const latest = useRef(turn);
  latest.current = turn;
  useEffect(() => {
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

function Legend({ paint }: { paint: Paint }) {
  const entries: (readonly [string, Pair])[] =
    paint === "busy"
      ? BUSY.map((word, i) => [word, STEPS[i]!])
      : paint === "attainment"
        ? IN_TIME.map((word, i) => [word, PROMISE[i]!])
        : paint === "energy"
          ? WATTS.map((word, i) => [word, STEPS[i]!])
          : (Object.keys(STATES) as api.InstanceState[]).map((state) => [STATE_WORDS[state], STATES[state]]);
  if (paint !== "state" && paint !== "plan") entries.push(["not known", NOTHING]);
  return (
    <ul class="legend" aria-label="Colours">
      {entries.map(([word, pair]) => (
        <li key={word}>
          <i class="swatch" style={{ background: css(pair) }} aria-hidden="true" />
          {word}
        </li>
      ))}
    </ul>
  );
}

function Selected({ of, gpu: at }: { of: FleetState; gpu: number }) {
  const revision = fleetRevision.value;
  const gpu = of.gpus[at];
  if (!gpu || revision < 0) return null;
  const name = (one: Instance) =>
    one.job ?? (one.shared ?? [one.service]).map((i) => of.services[i] ?? "").filter(Boolean).join(", ");
  return (
    <section class="selected" aria-live="polite" aria-label="Chosen GPU">
      <h2>
        <a href={link("gpu", gpu.id)}>{gpu.id}</a> <small>{`${gpu.model.name} on ${of.nodes[gpu.node]!.name}, ${GPU_STATES[gpu.state] ?? ""}`}</small>
      </h2>
      <ul>
        {gpu.instances.map((one) => (
          <li key={`${one.profile}@${one.start}`}>
            <State state={one.state} /> {profileOf(gpu, one).name}@{one.start} {name(one)}
            {one.busy !== null && `, ${share(one.busy)} in use`}
            {one.attainment !== null && `, ${share(one.attainment)} in time`}
          </li>
        ))}
        {gpu.instances.length === 0 && <li>not cut</li>}
      </ul>
    </section>
  );
}

interface Row {
  readonly at: number;
  readonly gpu: Gpu;
  readonly node: string;
  readonly held: number;
  readonly working: number | null;
  readonly cut: string;
  readonly text: string;
}

const COLUMNS: readonly Column<Row>[] = [
  { title: "GPU", value: (row) => row.gpu.id, show: (row) => <a href={link("gpu", row.gpu.id)}>{row.gpu.id}</a> },
  { title: "Node", value: (row) => row.node },
  { title: "Model", value: (row) => row.gpu.model.name },
  { title: "State", value: (row) => GPU_STATES[row.gpu.state] ?? null },
  { title: "Held", value: (row) => row.held, show: (row) => <Bar share={row.held}>{share(row.held)}</Bar>, number: true },
  { title: "Working", value: (row) => row.working, show: (row) => <Bar share={row.working}>{share(row.working)}</Bar>, number: true },
  { title: "Power", value: (row) => row.gpu.watts, show: (row) => scaled(row.gpu.watts, "W"), number: true },
  { title: "Instances", value: (row) => row.cut },
];

function rowOf(of: FleetState, gpu: Gpu, at: number): Row {
  let held = 0;
  let working: number | null = null;
  const words: string[] = [];
  for (const one of gpu.instances) {
    const { compute, name } = profileOf(gpu, one);
    if (one.service >= 0 || one.job || one.state === "foreign") held += compute;
    if (one.busy !== null) working = (working ?? 0) + one.busy * compute;
    const who = one.job ?? (one.shared ?? [one.service]).map((i) => of.services[i] ?? "").filter(Boolean).join("+");
    words.push(`${name} ${who || STATE_WORDS[one.state]}`);
  }
  const node = of.nodes[gpu.node]!;
  const all = gpu.model.compute_slices;
  return {
    at,
    gpu,
    node: node.name,
    held: held / all,
    working: working === null ? null : working / all,
    cut: words.join(", "),
    text: [gpu.id, node.name, node.rack, node.zone, gpu.model.name, GPU_STATES[gpu.state], ...words].join(" "),
  };
}

function GpuTable({ of, selected }: { of: FleetState; selected: Signal<number | null> }) {
  const revision = useSlow(1000);
  const rows = useMemo(() => of.gpus.map((gpu, i) => rowOf(of, gpu, i)), [of, revision]);
  return (
    <section aria-label="GPUs as a table">
      <Table
        label="GPUs"
        rows={rows}
        columns={COLUMNS}
        name={(row) => row.gpu.id}
        text={(row) => row.text}
        onRow={(row) => (selected.value = row.at)}
        current={selected.value === null ? null : (of.gpus[selected.value]?.id ?? null)}
      />
    </section>
  );
}

/** The fleet's revision, at most every so many milliseconds. */
function useSlow(least: number): number {
  const slow = useSignal(fleetRevision.peek());
  useEffect(() => {
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
