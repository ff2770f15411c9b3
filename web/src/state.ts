// What all pages share: the source, who looks, the connection, the filter, the route, and documents that stay fresh.
import { batch, computed, effect, signal, type Signal } from "@preact/signals";
import { useLayoutEffect, useMemo } from "preact/hooks";
import type * as api from "./model";
import { EmbeddedSource, LiveSource, Refusal, type Connection, type Embedded, type Source, type Told } from "./source";

const inside = document.getElementById("partita-documents")?.textContent;
export const source: Source = inside ? new EmbeddedSource(JSON.parse(inside) as Embedded) : new LiveSource();

export const index = signal<api.Index | null>(null);
/** Why the cluster cannot be seen now, where it cannot: all that is shown is older. */
export const fault = signal<api.Fault | null>(null);
export const connection = signal<Connection>("connecting");
/** What stands between the page and its figures: no server, or a token that is missing or wrong. */
export const trouble = signal<Refusal | Error | null>(null);
/** What the server said about the change that was applied, for the page that follows it. */
export const said = signal("");
/** The text of `/`: pages show what matches it. */
export const filter = signal("");

export const has = (part: api.Part | "report") =>
  part === "report" ? source.report : (index.value?.parts.includes(part) ?? false);
export const mayWrite = computed(() => source.live && index.value?.role === "write");

// The route: `#/services/photo-search?sort=rate` is the page `services` with the rest `photo-search`.

export interface Route {
  readonly page: string;
  readonly rest: string;
  readonly query: URLSearchParams;
}

/** A part of an address; as it stands where it is not encoded well. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function currentRoute(): Route {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "", ...rest] = path.split("/");
  return { page, rest: decoded(rest.join("/")), query: new URLSearchParams(query) };
}

export const route = signal(currentRoute());
addEventListener("hashchange", () => (route.value = currentRoute()));

export const link = (page: string, rest = "") => `#/${page}${rest ? `/${encodeURIComponent(rest)}` : ""}`;

// Events of the stream, for whoever listens.

type Listener<Name extends keyof Told> = (told: Told[Name]) => void;
const listeners = new Map<keyof Told, Set<Listener<never>>>();

/** Calls `listener` for each event of that name, until the function that is returned is called. */
export function on<Name extends keyof Told>(name: Name, listener: Listener<Name>): () => void {
  const all = listeners.get(name) ?? new Set();
  listeners.set(name, all.add(listener));
  return () => all.delete(listener);
}

function tell<Name extends keyof Told>(name: Name, told: Told[Name]): void {
  batch(() => {
    for (const listener of listeners.get(name) ?? []) (listener as Listener<Name>)(told);
  });
}

// Documents, one for each path, shared by all who show it.

export class Document<T> {
  readonly data: Signal<T | null> = signal(null);
  readonly error: Signal<Refusal | Error | null> = signal(null);
  private running: Promise<void> | null = null;
  private again = false;

  constructor(
    readonly path: string,
    private readonly read: (path: string) => Promise<unknown> = (path) => source.get(path),
  ) {}

  /** Loads the document anew; what is asked for while it loads is loaded once more after it. */
  load(): Promise<void> {
    if (this.running) {
      this.again = true;
      return this.running;
    }
    this.running = this.fetch().finally(() => {
      this.running = null;
      if (this.again) {
        this.again = false;
        void this.load();
      }
    });
    return this.running;
  }

  private async fetch(): Promise<void> {
    try {
      const data = (await this.read(this.path)) as T;
      batch(() => {
        this.data.value = data;
        this.error.value = null;
      });
    } catch (error) {
      this.error.value = error instanceof Error ? error : new Error(String(error));
      if (error instanceof Refusal && error.status === 401) trouble.value = error;
    }
  }
}

const documents = new Map<string, Document<unknown>>();
const KEPT = 50; // documents of pages that were left

/** The document of a path; loaded when first asked for. */
export function documentOf<T>(path: string, read?: (path: string) => Promise<T>): Document<T> {
  let found = documents.get(path);
  if (found) documents.delete(path);
  else {
    found = new Document(path, read);
    void found.load();
  }
  documents.set(path, found);
  for (const oldest of documents.keys()) {
    if (documents.size <= KEPT) break;
    documents.delete(oldest);
  }
  return found as Document<T>;
}

/** The document of a path for a component: fresh when it is first shown, and again after each of the events. */
export function useDocument<T>(path: string, events: readonly (keyof Told)[] = [], seconds = 1, read?: (path: string) => Promise<T>): Document<T> {
  const shown = useMemo(() => documentOf<T>(path, read), [path]);
  useLayoutEffect(() => {
    if (shown.data.peek()) void shown.load();
    let timer = 0;
    const later = () => {
      timer ||= setTimeout(() => {
        timer = 0;
        void shown.load();
      }, 1000 * seconds);
    };
    const ends = [...events, "reset" as const].map((name) => on(name, later));
    ends.push(on("hello", () => void (shown.error.peek() && shown.load())));
    return () => {
      clearTimeout(timer);
      ends.forEach((end) => end());
    };
  }, [shown, seconds]);
  return shown;
}

const PAGE = 1000; // elements of a page of a list; more is not allowed

/** All elements of a list, page by page, at most so many. */
export async function all<Page extends { readonly next: string | null }, Row>(
  path: string,
  rows: (page: Page) => readonly Row[],
  most = 20 * PAGE,
): Promise<Row[]> {
  const found: Row[] = [];
  for (let after: string | null = ""; after !== null && found.length < most; ) {
    const cursor: string = after ? `&after=${encodeURIComponent(after)}` : "";
    const page = (await source.get(`${path}?limit=${PAGE}${cursor}`)) as Page;
    found.push(...rows(page));
    after = page.next;
  }
  return found;
}

/** Loads the index, and listens from its newest event on; again after each `reset`. */
export async function connect(): Promise<void> {
  try {
    index.value = (await source.get("")) as api.Index;
    fault.value = index.value.fault;
    trouble.value = null;
  } catch (error) {
    trouble.value = error as Error;
    if (error instanceof Refusal && error.status === 401) return;
    setTimeout(() => void connect(), 2000);
    return;
  }
  source.listen(index.value.last_event, tell, (state) => (connection.value = state), (why) => (trouble.value = why));
}

const loadIndex = () => void source.get("").then((found) => (index.value = found as api.Index), () => undefined);
on("reset", loadIndex);
on("fault", (told) => (fault.value = told.fault));
let greeted = false;
on("hello", (hello) => {
  // The server is another version now: so must the page be. Whoever may look again gets all that was refused.
  const refused = trouble.value instanceof Refusal;
  if (refused || (index.value && hello.version !== index.value.version)) location.reload();
  trouble.value = null;
  if (greeted) loadIndex(); // as another server, or after a session, one may do other things
  greeted = true;
});

// Light or dark: as the system has it, or as chosen.

export type Scheme = "system" | "light" | "dark";
const SCHEME = "partita-scheme";

function remembered(): Scheme {
  try {
    const kept = localStorage.getItem(SCHEME);
    return kept === "light" || kept === "dark" ? kept : "system";
  } catch {
    return "system"; // storage is off
  }
}

export const scheme = signal<Scheme>(remembered());
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(prefersDark.matches);
prefersDark.addEventListener("change", () => (systemDark.value = prefersDark.matches));
export const dark = computed(() => (scheme.value === "system" ? systemDark.value : scheme.value === "dark"));
effect(() => {
  document.documentElement.dataset["scheme"] = scheme.value;
  try {
    localStorage.setItem(SCHEME, scheme.value);
  } catch {
    // Storage is off: the choice holds for this page.
  }
});
