// A chart of values that change in steps, drawn in the page's own pixels.
import { useRef } from "preact/hooks";
import { useWidth } from "./rows";

export type Point = readonly [at: number, value: number];
export type Look = "area" | "line" | "dashes" | "dots";

export interface StepLine {
  readonly name: string;
  readonly points: readonly Point[];
  readonly look: Look;
}

interface Props {
  readonly label: string;
  readonly lines: readonly StepLine[];
  readonly until: number;
  readonly height: number;
  /** What is written at moments of the time axis. */
  readonly ticks: readonly { readonly at: number; readonly text: string }[];
  /** What is written at values of the upright axis. */
  readonly say: (value: number) => string;
  /** A moment that is looked at. */
  readonly cursor?: number | null;
}

const FOOT = 18; // pixels for the words below
const HEAD = 6;
const LETTER = 6.4; // pixels, of small figures, about

/** At most `most` round values from 0 to `end`. */
export function rounds(end: number, most: number): number[] {
  if (!(end > 0)) return [0];
  const rough = end / most;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((n) => unit * n >= rough * (1 - 1e-9))!;
  return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, i) => i * step);
}

/** A value's last step at or before a moment. */
export function valueAt(points: readonly Point[], at: number): number | null {
  let low = -1;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (points[middle]![0] <= at + 1e-9) low = middle;
    else high = middle - 1;
  }
  return low < 0 ? null : points[low]![1];
}

export function Steps({ label, lines, until, height, ticks, say, cursor = null }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const top = Math.max(1e-9, ...lines.flatMap((line) => line.points.map(([, value]) => value))) * 1.06;
  const values = rounds(top, height > 150 ? 4 : 2);
  const left = 6 + LETTER * Math.max(...values.map((value) => say(value).length));
  const wide = Math.max(1, width - left - 8);
  const tall = height - FOOT - HEAD;
  const x = (at: number) => left + (until > 0 ? (wide * Math.min(at, until)) / until : 0);
  const y = (value: number) => HEAD + tall * (1 - value / top);
  const path = (points: readonly Point[]) => {
    const [first] = points;
    if (!first) return "";
    const rest = points.slice(1).map(([at, value]) => `H${x(at).toFixed(1)}V${y(value).toFixed(1)}`);
    return `M${x(first[0]).toFixed(1)} ${y(first[1]).toFixed(1)}${rest.join("")}H${x(until).toFixed(1)}`;
  };
  let free = 0;
  return (
    <div ref={box} class="steps" style={{ height: `${height}px` }}>
      {width > 0 && (
        <svg width={width} height={height} role="img" aria-label={label}>
          {values.map((value) => (
            <g key={value}>
              <path class="rule" d={`M${left} ${y(value).toFixed(1)}h${wide}`} />
              <text x={left - 4} y={y(value) + 4} text-anchor="end">
                {say(value)}
              </text>
            </g>
          ))}
          {ticks.map(({ at, text }) => {
            const half = (LETTER * text.length) / 2;
            const middle = Math.min(Math.max(x(at), left + half - 2), width - half);
            if (middle - half < free) return null;
            free = middle + half + 10;
            return (
              <text key={at} x={middle} y={height - 4} text-anchor="middle">
                {text}
              </text>
            );
          })}
          {lines.map((line, i) =>
            line.look === "area" ? (
              <path key={`area ${i}`} class="under" d={`${path(line.points)}V${y(0)}H${x(line.points[0]?.[0] ?? 0).toFixed(1)}Z`} />
            ) : null,
          )}
          {lines.map((line, i) => (
            <path key={i} class={`edge ${line.look}`} d={path(line.points)} />
          ))}
          {cursor !== null && <path class="cursor" d={`M${x(cursor).toFixed(1)} ${HEAD}v${tall}`} />}
        </svg>
      )}
    </div>
  );
}

/** What each line of a chart is. */
export const Key = ({ lines }: { lines: readonly { readonly name: string; readonly look: string }[] }) => (
  <ul class="legend" aria-label="Lines">
    {lines.map((line) => (
      <li key={line.name}>
        <svg class="key" width="22" height="10" aria-hidden="true">
          {line.look === "area" && <path class="under" d="M0 5h22v5H0Z" />}
          <path class={`edge ${line.look}`} d="M0 5h22" />
        </svg>
        {line.name}
      </li>
    ))}
  </ul>
);
