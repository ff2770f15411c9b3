// An explanation of a service, as `partita explain --output json` says it.
import { milliseconds, number, share } from "../format";
import { Table, type Column } from "./table";

interface Point {
  readonly batch: number;
  readonly processes: number;
  readonly throughput: number;
  readonly latency_ms: number;
  readonly estimated: boolean;
}

interface Binding {
  readonly profile: string;
  readonly point: Point | null;
  readonly instances: number;
  readonly binds: string;
  readonly better: Point | null;
  readonly next_best: Point | null;
}

interface Slice {
  readonly gpu: string;
  readonly profile: string;
  readonly instances: number;
  readonly largest: number | null;
  readonly latency_ms: number | null;
  readonly part: number;
  readonly throughput: number | null;
  readonly estimated: boolean;
}

interface Explanation {
  readonly gpus?: Readonly<Record<string, readonly Binding[]>>;
  readonly slices?: readonly Slice[];
  readonly loss?: { readonly level: string; readonly domain: string; readonly left: number; readonly least: number };
  readonly shared?: { readonly gpu: string; readonly placement: string; readonly others: readonly string[] };
  readonly changes?: readonly { readonly change: string; readonly objective: number | null; readonly proven: boolean }[];
}

const batch = (point: Point) => (point.processes > 1 ? `${point.batch}×${point.processes}` : String(point.batch));
const rate = (point: Point) => `${point.estimated ? "≈" : ""}${number(point.throughput)}`;

function why({ binds, better }: Binding): string {
  return better
    ? `${binds}: batch ${batch(better)} takes ${milliseconds(better.latency_ms)} for ${rate(better)} items/s`
    : binds;
}

const BINDINGS: readonly Column<Binding>[] = [
  { title: "Profile", value: (one) => one.profile },
  { title: "Used", value: (one) => one.instances, number: true },
  { title: "Batch", value: (one) => one.point?.batch ?? null, show: (one) => (one.point ? batch(one.point) : "–"), number: true },
  {
    title: "Latency",
    value: (one) => one.point?.latency_ms ?? null,
    show: (one) => milliseconds(one.point?.latency_ms),
    number: true,
  },
  {
    title: "Items/s",
    value: (one) => one.point?.throughput ?? null,
    show: (one) => (one.point ? rate(one.point) : "cannot run"),
    number: true,
  },
  { title: "Bound by", value: why, wide: true },
  {
    title: "Next best",
    value: (one) => (one.next_best ? `batch ${batch(one.next_best)}: ${rate(one.next_best)} items/s` : null),
  },
];

const SLICES: readonly Column<Slice>[] = [
  { title: "Slice", value: (one) => `${one.gpu} ${one.profile}` },
  { title: "Used", value: (one) => one.instances, number: true },
  { title: "Largest query", value: (one) => one.largest, show: (one) => one.largest ?? "none in time", number: true },
  { title: "Latency", value: (one) => one.latency_ms, show: (one) => milliseconds(one.latency_ms), number: true },
  { title: "Of queries", value: (one) => one.part, show: (one) => share(one.part), number: true },
  { title: "Items/s each", value: (one) => one.throughput, show: (one) => number(one.throughput), number: true },
];

export function Explained({ explanation }: { explanation: Readonly<Record<string, unknown>> }) {
  const { gpus = {}, slices, loss, shared, changes = [] } = explanation as Explanation;
  return (
    <div class="explained">
      {shared && (
        <p>
          It shares {shared.placement} of {shared.gpu} with {shared.others.join(", ")}.
        </p>
      )}
      {Object.entries(gpus).map(([gpu, bindings]) => (
        <section key={gpu}>
          <h3>{gpu}</h3>
          <Table label={`What binds it on ${gpu}`} rows={bindings} columns={BINDINGS} name={(one) => one.profile} filtered={false} />
        </section>
      ))}
      {slices && <Table label="What each slice answers" rows={slices} columns={SLICES} name={(one) => `${one.gpu} ${one.profile}`} filtered={false} />}
      {loss && (
        <p>
          Without {loss.domain}, the worst {loss.level} to lose, {number(loss.left)} items/s are left, of which{" "}
          {number(loss.least)} are needed.
        </p>
      )}
      {changes.length > 0 && (
        <ul>
          {changes.map(({ change, objective, proven }) => (
            <li key={change}>
              {change}: {objective === null ? "no plan" : number(objective)}
              {objective !== null && !proven && ", perhaps less"}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
