// Lines over time, on uPlot: a legend with the values under the pointer, and the same as a table.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { LINES, css } from "../colours";
import { duration, simulated, time, UNKNOWN } from "../format";
import { dark } from "../state";
import { Table, type Column } from "./table";

export interface Line {
  readonly name: string;
  readonly values: readonly (number | null)[];
  /** A line to compare with, such as an SLO: thin and dashed. */
  readonly reference?: boolean;
  /** Holds its value until the next point. */
  readonly steps?: boolean;
}

interface Props {
  readonly title: string;
  /** Seconds since 1970; with `elapsed`, seconds from a beginning. */
  readonly at: readonly number[];
  readonly lines: readonly Line[];
  /** A value in words. */
  readonly show: (value: number | null) => string;
  readonly elapsed?: boolean;
  /** The vertical axis begins at 0 unless this says otherwise. */
  readonly least?: number;
  readonly most?: number;
  readonly height?: number;
  /** Charts with the same key share the pointer's time. */
  readonly together?: string;
  /** A time that is marked, such as now. */
  readonly mark?: number | null;
}

const FONT = "11px system-ui, sans-serif";

/** Index of each line's colour: references share the last one. */
const colourOf = (lines: readonly Line[], i: number) => LINES[lines.slice(0, i).filter((line) => !line.reference).length % LINES.length]!;

export function Chart(props: Props) {
  const { title, show, elapsed = false, least = 0, most, height = 170, together, mark } = props;
  const { at, lines } = useMemo(() => (elapsed ? props : sinceKnown(props)), [props.at, props.lines, elapsed]);
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const marked = useRef(mark);
  marked.current = mark;
  const under = useSignal<number | null>(null);
  const open = useSignal(false);
  const word = elapsed ? duration : (value: number) => time(value);
  const known = lines.some((line) => !line.reference && line.values.some((value) => value !== null));
  const counted = elapsed || simulated(at[0]);
  const shape = JSON.stringify([lines.map(({ name, reference, steps }) => [name, reference, steps]), elapsed, counted, at.length === 1, least, most, height, together]);

  useLayoutEffect(() => {
    if (!known) return;
    const element = holder.current!;
    const scheme = dark.value ? 1 : 0;
    const [ink, grid] = dark.value ? ["#a3b0bd", "#27313b"] : ["#54616f", "#e6ebf0"];
    const axis = { stroke: ink, font: FONT, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
    const options: uPlot.Options = {
      width: Math.max(80, element.clientWidth),
      height,
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: false, y: false },
        points: { size: 6 },
        ...(together ? { sync: { key: together } } : {}),
      },
      scales: {
        x: { time: !counted, range: (_plot, first, last) => (first === last ? [first - 60, last + 60] : [first, last]) },
        y: { range: (_plot, low, high) => [Math.min(least, low), most ?? rounded(Math.max(high, least + 1e-9))] },
      },
      axes: [
        { ...axis, size: 28, space: 70, values: (_plot, ticks) => ticks.map(elapsed ? duration : counted ? (tick) => time(tick) : clock(ticks)) },
        { ...axis, size: 64, space: 28, values: (_plot, ticks) => ticks.map((tick) => (most === 1 ? percent(tick) : show(tick))) },
      ],
      series: [
        {},
        ...lines.map((line, i) => ({
          label: line.name,
          stroke: line.reference ? ink : colourOf(lines, i)[scheme],
          width: line.reference ? 1 : 1.75,
          points: { show: at.length === 1 && !line.reference, size: 5 },
          ...(line.reference ? { dash: [5, 4] } : {}),
          ...(line.steps ? { paths: uPlot.paths.stepped!({ align: 1 }) } : {}),
        })),
      ],
      hooks: {
        setCursor: [(drawn) => (under.value = drawn.cursor.idx ?? null)],
        draw: [
          (drawn) => {
            if (marked.current === null || marked.current === undefined) return;
            const x = drawn.valToPos(marked.current, "x", true);
            drawn.ctx.fillStyle = ink;
            drawn.ctx.fillRect(x, drawn.bbox.top, devicePixelRatio, drawn.bbox.height);
          },
        ],
      },
    };
    const made = new uPlot(options, aligned(at, lines), element);
    plot.current = made;
    const sized = new ResizeObserver(() => made.setSize({ width: Math.max(80, element.clientWidth), height }));
    sized.observe(element);
    return () => {
      sized.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, known, dark.value]);
  useLayoutEffect(() => plot.current?.setData(aligned(at, lines)), [at, lines, shape, known, dark.value]);
  useLayoutEffect(() => plot.current?.redraw(false), [mark]);

  const pointed = under.value;
  const value = (line: Line) => {
    const values = line.values;
    const found = pointed === null ? values.findLast((one) => one !== null) : values[pointed];
    return found ?? null;
  };
  const columns = useMemo<readonly Column<number>[]>(
    () => [
      { title: elapsed ? "After" : "Time", value: (i) => at[i] ?? null, show: (i) => word(at[i]!) },
      ...lines.map((line) => ({
        title: line.name,
        value: (i: number) => line.values[i] ?? null,
        show: (i: number) => show(line.values[i] ?? null),
        number: true,
      })),
    ],
    [at, lines],
  );
  return (
    <figure class="chart">
      <figcaption>
        <h2>{title}</h2>
        <ul class="legend">
          {lines.map((line, i) => (
            <li key={line.name}>
              <i
                class={line.reference ? "stroke dashed" : "stroke"}
                style={{ borderColor: line.reference ? "var(--soft)" : css(colourOf(lines, i)) }}
                aria-hidden="true"
              />
              {line.name} <b>{show(value(line))}</b>
            </li>
          ))}
          {pointed !== null && at[pointed] !== undefined && <li class="when">{word(at[pointed])}</li>}
        </ul>
      </figcaption>
      {known ? (
        <>
          <div
            ref={holder}
            class="plot"
            style={{ minHeight: `${height}px` }}
            role="img"
            aria-label={`${title}: ${lines.map((line) => said(line, show)).join("; ")}`}
          />
          <details onToggle={(event) => (open.value = event.currentTarget.open)}>
            <summary>As a table</summary>
            {open.value && <Table label={title} rows={at.map((_, i) => i)} columns={columns} name={String} sort={-1} />}
          </details>
        </>
      ) : (
        <p class="empty">Nothing was measured in this time. The history begins with the dashboard; rates, latencies and queues come from a gateway.</p>
      )}
    </figure>
  );
}

/** What lies before the first value is left out: minutes after the start an hour is no empty picture. */
function sinceKnown({ at, lines }: Pick<Props, "at" | "lines">): Pick<Props, "at" | "lines"> {
  const measured = lines.filter((line) => !line.reference);
  const first = at.findIndex((_, i) => measured.some((line) => (line.values[i] ?? null) !== null));
  if (first <= 0) return { at, lines };
  return { at: at.slice(first), lines: lines.map((line) => ({ ...line, values: line.values.slice(first) })) };
}

const aligned = (at: readonly number[], lines: readonly Line[]): uPlot.AlignedData =>
  [at, ...lines.map((line) => line.values)] as unknown as uPlot.AlignedData;

/** A tick of a share, with as many digits as tell it from its neighbours. */
const percent = (tick: number) => `${+(100 * tick).toFixed(2)} %`;

/** The next larger round number, so that the highest line does not touch the edge. */
function rounded(value: number): number {
  const step = 10 ** Math.floor(Math.log10(value)) / 4;
  return Math.ceil((1.04 * value) / step) * step;
}

const days = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const minutes = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

/** Ticks of a time axis, as fine as they stand. */
const clock = (ticks: readonly number[]) => (tick: number) => {
  const step = (ticks[1] ?? 60) - (ticks[0] ?? 0);
  if (step < 60) return time(tick);
  const date = new Date(tick * 1000);
  return date.getHours() === 0 && date.getMinutes() === 0 ? days.format(date) : minutes.format(date);
};

/** A line for who does not see it: its last, least and largest value. */
function said(line: Line, show: (value: number | null) => string): string {
  const known = line.values.filter((value) => value !== null);
  if (!known.length) return `${line.name} ${UNKNOWN}`;
  const last = show(known.at(-1)!);
  if (line.reference) return `${line.name} ${last}`;
  const [low, high] = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
  return `${line.name} last ${last}, from ${show(low)} to ${show(high)}`;
}
