// Where documents come from: the API of a running cluster, or documents inside the page (reports).
import type * as api from "./model";
import { gpuOf } from "./report";

/** An error's answer: what, where, how to mend it. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly fault: api.Fault,
  ) {
    super(fault.error);
  }
}

/** What the stream of events tells, by the name of the event. */
export interface Told {
  hello: api.Hello;
  gpu: api.GpuChange;
  load: api.LoadChange;
  services: readonly api.Service[];
  transition: api.Transition;
  job: api.Job;
  event: api.Event;
  reset: api.Reset;
  fault: api.ClusterFault;
}

export type Tell = <Name extends keyof Told>(name: Name, told: Told[Name]) => void;
/** `held`: the server answers, but its events do not come. */
export type Connection = "live" | "connecting" | "held" | "saved";

export interface Source {
  /** False where the documents are inside the page: nothing changes, and nothing can be asked for. */
  readonly live: boolean;
  /** Whether there is a report to read. */
  readonly report: boolean;
  /** The document of a path under `/api/v1`, such as `services?limit=100`. Throws Refusal. */
  get(path: string): Promise<unknown>;
  /** Sends a document; `match` is the state's version that a change was made for. Throws Refusal. */
  send(method: "POST" | "DELETE", path: string, document?: unknown, match?: string): Promise<unknown>;
  /** Tells each event, from `after` on, and connects again when the connection ends, until stopped.
   *
   * Where the server answers and its events do not come, it tells `reset` instead from time to time.
   *
   * `refused` is called where one may not listen any more: a token was taken back, or a session is over. */
  listen(after: number, tell: Tell, connection: (state: Connection) => void, refused: (why: Refusal) => void): () => void;
}

const QUIET = 45_000; // ms without even a ping, after which the connection counts as dead
const GREETING = 15_000; // ms to the first event, after which something holds events back
const LONGEST_WAIT = 10_000; // ms between two attempts to connect
const HELD_AFTER = 3; // attempts without an event, while the server answers

export class LiveSource implements Source {
  readonly live = true;
  readonly report = false;

  constructor(private readonly base = "api/v1") {}

  async get(path: string): Promise<unknown> {
    return this.answer(await fetch(this.url(path), { headers: { Accept: "application/json" } }));
  }

  async send(method: string, path: string, document?: unknown, match?: string): Promise<unknown> {
    const headers: Record<string, string> = { Accept: "application/json" };
    if (document !== undefined) headers["Content-Type"] = "application/json";
    if (match !== undefined) headers["If-Match"] = `"${match}"`;
    const body = document === undefined ? null : JSON.stringify(document);
    return this.answer(await fetch(this.url(path), { method, headers, body }));
  }

  listen(after: number, tell: Tell, connection: (state: Connection) => void, refused: (why: Refusal) => void): () => void {
    const ended = new AbortController();
    void this.keepListening(after, tell, connection, refused, ended.signal);
    return () => ended.abort();
  }

  /** Whether the server answers what is not a stream. */
  private async answers(refused: (why: Refusal) => void): Promise<boolean> {
    try {
      await this.get("");
      return true;
    } catch (error) {
      if (error instanceof Refusal && error.status === 401) refused(error);
      return false;
    }
  }

  private url(path: string): string {
    return path ? `${this.base}/${path}` : this.base;
  }

  private async answer(response: Response): Promise<unknown> {
    const text = await response.text();
    let document: unknown;
    try {
      document = text ? JSON.parse(text) : null;
    } catch {
      document = null;
    }
    if (response.ok && (document !== null || !text)) return document;
    const fault = document as api.Fault | null;
    if (response.ok) {
      const error = "Something else answers in the place of the dashboard's server.";
      throw new Refusal(response.status, { error, where: null, hint: "Reload this page: a proxy may want you to sign in." });
    }
    const otherwise = { error: `The server answered ${response.status} ${response.statusText}.`, where: null, hint: null };
    throw new Refusal(response.status, fault?.error ? fault : otherwise);
  }

  private async keepListening(
    after: number,
    tell: Tell,
    connection: (state: Connection) => void,
    refused: (why: Refusal) => void,
    ended: AbortSignal,
  ): Promise<void> {
    let last = String(after);
    const tries = { failed: 0 }; // attempts without an event, since there was one
    const say = (state: Connection) => connection(state === "connecting" && tries.failed >= HELD_AFTER ? "held" : state);
    const hear: Tell = (name, told) => {
      if (name === "hello") {
        tries.failed = 0;
        say("live");
      }
      tell(name, told);
    };
    for (let wait = 500; !ended.aborted; wait = Math.min(2 * wait, LONGEST_WAIT)) {
      say("connecting");
      tries.failed++;
      const attempt = new AbortController();
      const abort = () => attempt.abort();
      ended.addEventListener("abort", abort);
      const begun = Date.now();
      let quiet = setTimeout(abort, GREETING);
      try {
        // Proxies take headers away that they do not know, but no query.
        const path = this.url(`stream?last_event=${last}`);
        const response = await fetch(path, { headers: { Accept: "text/event-stream" }, cache: "no-store", signal: attempt.signal });
        if (!response.ok || !response.body) throw await this.answer(response).then(() => new Error("no stream"));
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let text = ""; ; ) {
          const { done, value } = await reader.read();
          if (done) break;
          const blocks = (text + value).replace(/\r\n?/g, "\n").split("\n\n");
          text = blocks.pop() ?? "";
          for (const block of blocks) last = heard(block, hear) ?? last;
          if (tries.failed) continue;
          clearTimeout(quiet);
          quiet = setTimeout(abort, QUIET);
          wait = 250;
        }
      } catch (error) {
        // The connection could not be made, or broke: the next attempt goes on where this one ended.
        if (error instanceof Refusal && error.status === 401) refused(error);
      } finally {
        clearTimeout(quiet);
        ended.removeEventListener("abort", abort);
      }
      if (tries.failed && (Date.now() - begun >= GREETING || tries.failed >= HELD_AFTER)) {
        const held = await this.answers(refused);
        tries.failed = held ? HELD_AFTER : 1;
        if (held) tell("reset", { fleet: "", why: "events do not come" });
      }
      say("connecting");
      await pause(wait * (0.5 + Math.random() / 2));
    }
  }
}

/** Waits so many milliseconds, or until the browser is online again. */
function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    const over = () => {
      clearTimeout(timer);
      removeEventListener("online", over);
      resolve();
    };
    const timer = setTimeout(over, milliseconds);
    addEventListener("online", over);
  });
}

/** Tells one event of the stream, and returns its id if it has one. */
export function heard(block: string, tell: Tell): string | null {
  let name = "message";
  let id: string | null = null;
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const [, field, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (field === "event") name = value ?? "";
    else if (field === "data") data.push(value ?? "");
    else if (field === "id") id = value ?? null;
  }
  if (data.length) tell(name as keyof Told, JSON.parse(data.join("\n")) as Told[keyof Told]);
  return id;
}

/** What a report has inside: documents by path, as the API would return them. */
export interface Embedded {
  readonly documents: Readonly<Record<string, unknown>>;
}

export class EmbeddedSource implements Source {
  readonly live = false;
  readonly report: boolean;
  private readonly documents: Readonly<Record<string, unknown>>;
  private readonly gpus: api.FleetPart | null;

  constructor({ documents }: Embedded) {
    const report = documents["report"] as api.Report | undefined;
    this.gpus = report?.sections.find((section) => section.gpus)?.gpus ?? null;
    this.documents = this.gpus ? { fleet: this.gpus.fleet, ...documents } : documents;
    this.report = report !== undefined;
  }

  get(path: string): Promise<unknown> {
    const { documents } = this;
    const gpu = /^gpus\/([^/]+)$/.exec(path)?.[1];
    const found =
      documents[path] ??
      documents[path.split("?")[0] ?? ""] ??
      (gpu && this.gpus ? gpuOf(this.gpus, decodeURIComponent(gpu)) : undefined);
    if (found !== undefined) return Promise.resolve(found);
    const fault = { error: `This report has no ${path || "index"}.`, where: null, hint: null };
    return Promise.reject(new Refusal(404, fault));
  }

  send(): Promise<unknown> {
    const fault = { error: "A report changes nothing.", where: null, hint: "Open partita dash." };
    return Promise.reject(new Refusal(405, fault));
  }

  listen(_after: number, _tell: Tell, connection: (state: Connection) => void): () => void {
    connection("saved");
    return () => undefined;
  }
}
