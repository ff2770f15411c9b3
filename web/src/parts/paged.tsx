// A list of the API that is loaded page by page, and that the stream keeps up to date.
import { useSignal, type Signal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { on, source } from "../state";

type Rows<Row> = readonly Row[];

export interface Paged<Row> {
  /** Null until the first page is there. */
  readonly rows: Signal<Rows<Row> | null>;
  readonly error: Signal<Error | null>;
  /** Of the page after these; null where there is none. */
  readonly next: Signal<string | null>;
  /** Loads the page after a cursor, or anew from the first. */
  readonly load: (after?: string | null) => Promise<void>;
  /** Changes the rows as the stream told; once more after a page that is on its way, which may not have it. */
  readonly change: (update: (rows: Rows<Row>) => Rows<Row>) => void;
}

/** The pages of a path, such as `events?limit=200`, loaded anew with another path.
 *
 * `taken` returns the rows of a page, and `key` what one is known by; `listening` begins to listen, and returns what
 * ends that. Older pages that were asked for stay when the first is loaded anew, if that leads up to them. */
export function usePaged<Row, Page extends { readonly next: string | null }>(
  path: string,
  taken: (page: Page) => Rows<Row>,
  key: (row: Row) => string,
  listening: (paged: Paged<Row>) => readonly (() => void)[],
): Paged<Row> {
  const rows = useSignal<Rows<Row> | null>(null);
  const error = useSignal<Error | null>(null);
  const next = useSignal<string | null>(null);
  const loads = useRef(0);
  const shown = useRef("");
  const meanwhile = useRef<((rows: Rows<Row>) => Rows<Row>)[] | null>(null);
  const load = async (after: string | null = null) => {
    const number = (loads.current += 1);
    const told: ((rows: Rows<Row>) => Rows<Row>)[] = (meanwhile.current = []);
    const newest = () => number === loads.current;
    try {
      const page = (await source.get(after === null ? path : `${path}&after=${encodeURIComponent(after)}`)) as Page;
      if (!newest()) return;
      const found = taken(page);
      const before = (shown.current === path && rows.peek()) || [];
      const older = after === null ? following(before, found, key) : [];
      const all: Rows<Row> = after === null ? [...found, ...older] : [...before, ...found];
      rows.value = told.reduce((changed, update) => update(changed), all);
      if (older.length === 0) next.value = page.next;
      error.value = null;
      shown.current = path;
    } catch (caught) {
      if (newest()) error.value = caught as Error;
    }
    if (newest()) meanwhile.current = null;
  };
  const change: Paged<Row>["change"] = (update) => {
    meanwhile.current?.push(update);
    if (rows.peek()) rows.value = update(rows.peek()!);
  };
  const paged = { rows, error, next, load, change };
  useLayoutEffect(() => {
    void load();
    const ends = [
      ...listening(paged),
      on("reset", () => void load()),
      on("hello", () => void (error.peek() && load())),
    ];
    return () => {
      loads.current += 1;
      ends.forEach((end) => end());
    };
  }, [path]);
  return paged;
}

/** The rows that came after those of a page when it was loaded before; none where they cannot be found. */
function following<Row>(before: Rows<Row>, page: Rows<Row>, key: (row: Row) => string): Rows<Row> {
  const there = new Set(page.map(key));
  const last = page.at(-1);
  const at = last === undefined ? -1 : before.findIndex((row) => key(row) === key(last));
  return at < 0 ? [] : before.slice(at + 1).filter((row) => !there.has(key(row)));
}

/** Loads the page after those that are shown, where there is one. */
export const More = <Row,>({ of, children }: { of: Paged<Row>; children: string }) =>
  of.next.value === null ? null : (
    <button type="button" onClick={() => void of.load(of.next.value)}>
      {children}
    </button>
  );
