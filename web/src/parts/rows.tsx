// Rows whose heights are known beforehand: only those in sight are drawn.
import { signal, useSignal } from "@preact/signals";
import type { ComponentChildren, RefObject } from "preact";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";

const FEW = 40; // rows that are all drawn; more of them scroll in a box of their own
const SPARE = 400; // pixels that are drawn beyond either edge

/** On paper one sees all rows: then all are drawn. */
export const printing = signal(false);
const paper = matchMedia("print");
paper.addEventListener("change", () => (printing.value = paper.matches));
const { style } = document.documentElement;
addEventListener("beforeprint", () => (style.width = "186mm")); // A4 less its margins, before widths are measured
addEventListener("afterprint", () => (style.width = ""));

/** The width of an element, kept up to date; 0 before it is first measured. */
export function useWidth(element: RefObject<HTMLElement | null>): number {
  const width = useSignal(0);
  useLayoutEffect(() => {
    const measured = element.current!;
    const measure = () => void (width.value = measured.clientWidth);
    const observer = new ResizeObserver(measure);
    measure();
    observer.observe(measured);
    addEventListener("beforeprint", measure); // observers tell only what is on the screen
    return () => {
      observer.disconnect();
      removeEventListener("beforeprint", measure);
    };
  }, []);
  return width.value;
}

/** From where to where one sees of an element, in pixels from its top: in the box that scrolls it, or in the window. */
export function inSight(element: Element): readonly [from: number, until: number] {
  const { top } = element.getBoundingClientRect();
  const box = element.closest(".scroll")?.getBoundingClientRect();
  return box ? [box.top - top, box.bottom - top] : [-top, innerHeight - top];
}

/** Calls `place` after whatever scrolled or was resized, once a frame. */
export function useScroll(place: () => void): void {
  const latest = useRef(place);
  latest.current = place;
  useLayoutEffect(() => {
    let asked = 0;
    const later = () => {
      asked ||= requestAnimationFrame(() => {
        asked = 0;
        latest.current();
      });
    };
    addEventListener("scroll", later, { passive: true, capture: true });
    addEventListener("resize", later);
    return () => {
      cancelAnimationFrame(asked);
      removeEventListener("scroll", later, { capture: true });
      removeEventListener("resize", later);
    };
  }, []);
}

interface Props {
  /** What the rows are of. */
  readonly label: string;
  /** Of each row, in pixels. */
  readonly heights: readonly number[];
  readonly row: (index: number) => ComponentChildren;
  /** Rows that are all drawn. */
  readonly few?: number;
}

export function Rows({ label, heights, row, few = FEW }: Props) {
  const tops = useMemo(() => {
    const found = new Float64Array(heights.length + 1);
    heights.forEach((height, i) => (found[i + 1] = found[i]! + height));
    return found;
  }, [heights]);
  const element = useRef<HTMLDivElement>(null);
  const range = useSignal<readonly [number, number]>([0, few]);
  const many = heights.length > few && !printing.value;
  const place = () => {
    if (!element.current || !many) return;
    const [above, below] = inSight(element.current);
    const first = Math.max(0, reached(tops, above - SPARE));
    const last = Math.min(heights.length, reached(tops, below + SPARE) + 1);
    const [from, until] = range.peek();
    if (from !== first || until !== last) range.value = [first, last];
  };
  useLayoutEffect(place);
  useScroll(place);
  const [from, until] = many ? range.value : [0, heights.length];
  const drawn = [];
  for (let i = from; i < Math.min(until, heights.length); i += 1) {
    drawn.push(
      <div key={i} class="row" style={{ top: `${tops[i]!}px`, height: `${heights[i]!}px` }}>
        {row(i)}
      </div>,
    );
  }
  const rows = (
    <div ref={element} class="rows" style={{ height: `${tops[heights.length]!}px` }}>
      {drawn}
    </div>
  );
  return <Scrolled label={label} when={many}>{rows}</Scrolled>;
}

interface ScrolledProps {
  readonly label: string;
  readonly when: boolean;
  readonly children: ComponentChildren;
}

/** A box of limited height that scrolls what is long. */
export const Scrolled = ({ label, when, children }: ScrolledProps) =>
  when ? (
    <div class="scroll" role="group" aria-label={label} tabIndex={0}>
      {children}
    </div>
  ) : (
    <>{children}</>
  );

/** The last row that begins at or above a height. */
function reached(tops: Float64Array, height: number): number {
  let low = 0;
  let high = tops.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle]! <= height) low = middle;
    else high = middle - 1;
  }
  return low;
}

interface GridProps {
  readonly label: string;
  readonly count: number;
  /** Of a card, in pixels. */
  readonly height: number;
  readonly least: number;
  readonly card: (index: number) => ComponentChildren;
}

const GAP = 12;

/** Cards of one height side by side, as many as have room; only those in sight are drawn. */
export function Grid({ label, count, height, least, card }: GridProps) {
  const element = useRef<HTMLDivElement>(null);
  const width = useWidth(element);
  const columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
  const rows = width ? Math.ceil(count / columns) : 0;
  const heights = useMemo(() => Array.from({ length: rows }, () => height + GAP), [rows, height]);
  return (
    <div ref={element}>
      <Rows
        label={label}
        heights={heights}
        row={(at) => (
          <div class="cards" style={{ gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))`, height: `${height}px` }}>
            {Array.from({ length: Math.min(columns, count - at * columns) }, (_, i) => card(at * columns + i))}
          </div>
        )}
      />
    </div>
  );
}
