// A table that sorts, filters, and draws only the rows in sight. Where it has no room, as on a phone, each row is a card
// whose cells carry their column's name.
import { useSignal } from "@preact/signals";
import type { ComponentChildren, RefObject } from "preact";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { filter } from "../state";
import { inSight, printing, useScroll } from "./rows";
import { number, plural, UNKNOWN } from "../format";

export type Value = string | number | null;

export interface Column<Row> {
  readonly title: string;
  /** What rows are sorted by, and what is shown where there is no `show`; null comes last. */
  readonly value: (row: Row) => Value;
  readonly show?: (row: Row) => ComponentChildren;
  /** Numbers stand to the right, words to the left. */
  readonly number?: boolean;
  /** Sentences: it takes the width that is left. */
  readonly wide?: boolean;
  /** What the column says, where its title alone does not. */
  readonly hint?: string;
}

interface Props<Row> {
  /** What the table is of, for who does not see it. */
  readonly label: string;
  readonly rows: readonly Row[];
  readonly columns: readonly Column<Row>[];
  readonly name: (row: Row) => string;
  /** Index of the column to sort by at first; -1 - i for descending; none keeps the given order. */
  readonly sort?: number;
  /** What `/` looks at; without it, all values of the row. */
  readonly text?: (row: Row) => string;
  readonly onRow?: (row: Row) => void;
  readonly current?: string | null;
  /** False where `/` leaves all rows. */
  readonly filtered?: boolean;
  /** Said where there are no rows. */
  readonly empty?: ComponentChildren;
}

const kind = <Row,>(column: Column<Row>) => (column.number ? "number" : column.wide ? "wide" : "");

const PHONE = 760; // CSS pixels of a screen up to which rows are cards
const FEW = 150; // rows that are all drawn
const SHORT = 10; // rows that are seen at a glance
const SPARE = 12; // rows drawn beyond either edge

const compare = (a: Value, b: Value) => {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  return typeof a === "number" && typeof b === "number" ? a - b : names.compare(String(a), String(b));
};
const names = new Intl.Collator("en", { numeric: true });

const nothing = (value: Value) => value === null || value === "";
const word = (value: Value) => (typeof value === "number" ? number(value) : (value ?? UNKNOWN));

/** Whether rows are cards: on a phone, and wherever the table would be wider than its box. */
function useFolded(box: RefObject<HTMLElement | null>): boolean {
  const folded = useSignal(false);
  const needed = useRef(0); // pixels that the table took before
  const fold = () => {
    const element = box.current;
    const room = element?.clientWidth ?? 0;
    if (!element || !room) return;
    if (folded.peek()) folded.value = innerWidth <= PHONE || room < needed.current;
    else {
      needed.current = element.querySelector("table")!.offsetWidth;
      folded.value = innerWidth <= PHONE || needed.current > room + 1;
    }
  };
  const latest = useRef(fold);
  latest.current = fold;
  useLayoutEffect(fold);
  useLayoutEffect(() => {
    const sized = new ResizeObserver(() => latest.current());
    sized.observe(box.current!);
    return () => sized.disconnect();
  }, []);
  return folded.value;
}

export function Table<Row>(props: Props<Row>) {
  const { rows, columns, name, text } = props;
  const sorted = useSignal(props.sort ?? null);
  const wanted = props.filtered === false ? "" : filter.value.trim().toLowerCase();
  const shown = useMemo(() => {
    const searched = text ?? ((row: Row) => columns.map((column) => column.value(row) ?? "").join(" "));
    const found = wanted ? rows.filter((row) => searched(row).toLowerCase().includes(wanted)) : [...rows];
    const by = sorted.value;
    if (by === null) return found;
    const { value } = columns[by < 0 ? -1 - by : by]!;
    const keyed = found.map((row) => [value(row), row] as const);
    const sign = by < 0 ? -1 : 1;
    keyed.sort(([a], [b]) => (a === null || b === null ? compare(a, b) : sign * compare(a, b)));
    return keyed.map(([, row]) => row);
  }, [rows, columns, text, wanted, sorted.value]);

  const box = useRef<HTMLDivElement>(null);
  const folded = useFolded(box);
  const body = useRef<HTMLTableSectionElement>(null);
  const range = useSignal({ first: 0, last: FEW, height: 29 });
  const many = shown.length > FEW && !printing.value;
  const place = () => {
    const element = body.current;
    if (!element || !many) return;
    const height = element.querySelector<HTMLElement>("tr[aria-rowindex]")?.offsetHeight ?? 29;
    const [above, below] = inSight(element);
    const first = Math.max(0, Math.min(shown.length - 1, Math.floor(above / height)) - SPARE);
    const last = Math.min(shown.length, Math.max(first + 1, Math.ceil(below / height) + SPARE));
    const old = range.peek();
    if (old.first !== first || old.last !== last || old.height !== height) range.value = { first, last, height };
  };
  useLayoutEffect(place);
  useScroll(place);

  // A column that says nothing of any row is left out.
  const drawn = columns.flatMap((column, i) =>
    i === 0 || !rows.length || rows.some((row) => !nothing(column.value(row))) ? [[column, i] as const] : [],
  );
  const { first, last, height } = range.value;
  const from = many ? first : 0;
  const until = many ? Math.max(last, from + 1) : shown.length;
  const order = sorted.value;
  const sortBy = (i: number) => (sorted.value = order === i ? -1 - i : i);
  const spare = (key: string, count: number) =>
    count > 0 ? (
      <tr key={key} class="spare" aria-hidden="true" role="presentation">
        <td role="presentation" style={{ height: `${count * height}px` }} />
      </tr>
    ) : null;

  return (
    <div class={folded ? "table folded" : "table"} ref={box}>
      {(wanted || rows.length > SHORT) && <p class="count" role="status">
        {wanted
          ? `${plural(shown.length, "row")} of ${rows.length.toLocaleString("en")} match “${filter.value.trim()}”`
          : plural(rows.length, "row")}
        <label class="narrow">
          {" "}
          Sort by{" "}
          <select
            value={order === null ? "" : String(order)}
            onChange={(event) => {
              const { value } = event.currentTarget;
              sorted.value = value === "" ? null : Number(value);
            }}
          >
            <option value="">as it comes</option>
            {drawn.flatMap(([column, i]) => [
              <option key={i} value={String(i)}>{`${column.title}, rising`}</option>,
              <option key={-1 - i} value={String(-1 - i)}>{`${column.title}, falling`}</option>,
            ])}
          </select>
        </label>
      </p>}
      <table role="table" aria-label={props.label} aria-rowcount={shown.length + 1} class={many ? "many" : ""}>
        <thead role="rowgroup">
          <tr role="row" aria-rowindex={1}>
            {drawn.map(([column, i]) => (
              <th
                key={column.title}
                role="columnheader"
                scope="col"
                class={kind(column)}
                aria-sort={order === i ? "ascending" : order === -1 - i ? "descending" : "none"}
              >
                <button type="button" title={column.hint} onClick={() => sortBy(i)}>
                  {column.title}
                  <span class="order" aria-hidden="true">
                    {order === i ? "▲" : order === -1 - i ? "▼" : ""}
                  </span>
                </button>
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup" ref={body}>
          {spare("before", from)}
          {shown.slice(from, until).map((row, i) => {
            const key = name(row);
            return (
              <tr
                key={key}
                role="row"
                aria-rowindex={from + i + 2}
                class={key === props.current ? "current" : ""}
                onClick={props.onRow && (() => props.onRow?.(row))}
              >
                {drawn.map(([column]) => (
                  <td key={column.title} role="cell" class={`${kind(column)} ${nothing(column.value(row)) ? "nothing" : ""}`}>
                    <span class="label" aria-hidden="true">
                      {column.title}
                    </span>
                    <span class="value">{column.show ? column.show(row) : word(column.value(row))}</span>
                  </td>
                ))}
              </tr>
            );
          })}
          {spare("after", shown.length - until)}
        </tbody>
      </table>
      {shown.length === 0 && <p class="empty">{wanted ? "Nothing matches the filter." : (props.empty ?? "There are none.")}</p>}
    </div>
  );
}
