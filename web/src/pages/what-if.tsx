// What if: another rate, SLO, price or count. GPUs, bound, cost and what binds follow; nothing is changed.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { milliseconds, number, plural } from "../format";
import type * as api from "../model";
import { ApplyDialog } from "../parts/apply";
import { NumberField } from "../parts/field";
import { Table, type Column } from "../parts/table";
import { Loaded, Tile, Tiles, Trouble, WorkloadChoice } from "../parts/tiles";
import { documentOf, has, mayWrite, source } from "../state";

const FEW = 8; // services that all have sliders at once
const SECONDS = 10; // of search, at most

type Services = Readonly<Record<string, api.ServiceWhatIf>>;
type Pools = Readonly<Record<string, api.PoolWhatIf>>;

export function WhatIfPage() {
  const workload = useSignal("");
  const path = workload.value ? `what-if?workload=${encodeURIComponent(workload.value)}` : "what-if";
  return (
    <>
      <h1>What if</h1>
      <Loaded of={documentOf<api.WhatIfInputs>(path)}>
        {(inputs) => (
          <>
            <WorkloadChoice of={inputs.workload} among={inputs.workloads} choose={(name) => (workload.value = name)} />
            <Asked inputs={inputs} key={inputs.workload} />
          </>
        )}
      </Loaded>
    </>
  );
}

interface Answers {
  /** The newest answer, and whether a newer one is on its way. */
  readonly answer: api.WhatIfAnswer | null;
  readonly error: Error | null;
  readonly waiting: boolean;
}

/** Of this page: the server ends an older search of the same client. */
const CLIENT = String(Math.random()).slice(2);

/** Answers of what is asked for: the bound first, then the plan. While a bound is on its way, only the last of several
 * questions waits; a plan that is on its way is not waited for. */
function useAnswers(workload: string, services: Services, pools: Pools): Answers {
  const state = useSignal<Answers>({ answer: null, error: null, waiting: true });
  const wanted = useRef({ services, pools });
  const busy = useRef(false);
  wanted.current = { services, pools };
  const answered = async (until: "bound" | "plan"): Promise<boolean> => {
    const asked = wanted.current;
    const newest = () => wanted.current.services === asked.services && wanted.current.pools === asked.pools;
    try {
      const question = { ...asked, workload, until, seconds: SECONDS, document: false, client: CLIENT };
      const answer = (await source.send("POST", "what-if", question)) as api.WhatIfAnswer;
      if (until === "bound" || newest()) state.value = { answer, error: null, waiting: until === "bound" };
    } catch (error) {
      if (newest()) state.value = { answer: state.value.answer, error: error as Error, waiting: false };
    }
    return newest();
  };
  const ask = async () => {
    if (busy.current) return;
    busy.current = true;
    while (!(await answered("bound")));
    busy.current = false;
    if (!state.value.error) await answered("plan");
  };
  useLayoutEffect(() => {
    state.value = { ...state.value, waiting: true };
    void ask();
  }, [services, pools]);
  return state.value;
}

/** What differs from what is there now. */
function changes<Value extends object>(all: Readonly<Record<string, Value>>): Readonly<Record<string, Value>> {
  return Object.fromEntries(Object.entries(all).filter(([, one]) => Object.values(one).some((value) => value !== null)));
}

function Asked({ inputs }: { inputs: api.WhatIfInputs }) {
  const services = useSignal<Services>({});
  const pools = useSignal<Pools>({});
  const chosen = useSignal<readonly string[]>(inputs.services.length <= FEW ? inputs.services.map((one) => one.name) : []);
  const found = useAnswers(inputs.workload, services.value, pools.value);
  const byName = useMemo(() => new Map(inputs.services.map((one) => [one.name, one])), [inputs]);
  const applies = useSignal(false);
  const any = Object.keys(services.value).length + Object.keys(pools.value).length > 0;
  const setService = (name: string, change: Partial<api.ServiceWhatIf>) => {
    const before = services.value[name] ?? { rate: null, latency_ms: null, quantile: null };
    services.value = changes({ ...services.value, [name]: { ...before, ...change } });
  };
  const setPool = (name: string, change: Partial<api.PoolWhatIf>) => {
    const before = pools.value[name] ?? { count: null, price: null };
    pools.value = changes({ ...pools.value, [name]: { ...before, ...change } });
  };
  return (
    <>
      <Answer found={found} objective={inputs.objective} />
      <div class="asked">
        {chosen.value.map((name) => {
          const one = byName.get(name);
          return one && <Service key={name} of={one} change={services.value[name]} set={(change) => setService(name, change)} />;
        })}
        {inputs.pools.map((pool) => (
          <Pool key={pool.name} of={pool} change={pools.value[pool.name]} set={(change) => setPool(pool.name, change)} />
        ))}
      </div>
      {any && (
        <div class="controls">
          {mayWrite.value && has("plan") && (
            <button type="button" class="primary" aria-haspopup="dialog" disabled={found.waiting || found.error !== null || !found.answer?.plan} onClick={() => (applies.value = true)}>
              Apply …
            </button>
          )}
          <button
            type="button"
            onClick={() => {
              services.value = {};
              pools.value = {};
            }}
          >
            All as it is now
          </button>
          {!mayWrite.value && <small>Nothing is changed. To apply it, sign in with a token that may write, or take the command or the YAML.</small>}
        </div>
      )}
      {applies.value && (
        <ApplyDialog
          change={{ workload: inputs.workload, services: services.value, pools: pools.value, cluster: inputs.workloads.length > 0 }}
          close={() => (applies.value = false)}
        />
      )}
      {found.answer && <Said answer={found.answer} />}
      {inputs.services.length > FEW && <Choose inputs={inputs} chosen={chosen} />}
    </>
  );
}

const UNITS: Readonly<Record<string, string>> = { gpus: "GPUs", cost: "cost per hour", watts: "watts" };

function Answer({ found, objective }: { found: Answers; objective: string }) {
  const { answer, error, waiting } = found;
  const plan = answer?.plan ?? null;
  const more = plan && answer && answer.now !== null ? plan.gpus - answer.now : null;
  return (
    <section class="answer" aria-label="Answer" aria-live="polite" aria-busy={waiting}>
      {error && <Trouble error={error} />}
      {answer && (
        <Tiles>
          <Tile
            label="GPUs"
            value={answer.feasible ? (plan ? number(plan.gpus) : objective === "gpus" ? `≥ ${number(answer.bound)}` : "…") : "do not suffice"}
            note={answer.now === null ? "no plan was applied" : `now ${number(answer.now)}${more ? `, ${more > 0 ? "+" : "−"}${number(Math.abs(more))}` : ""}`}
            bad={!answer.feasible}
          />
          <Tile label="Bound" value={number(answer.bound)} note={`${UNITS[objective] ?? objective}; no plan takes less`} />
          <Tile label="Proof" value={plan ? (plan.proven ? "optimal" : "open") : waiting ? "…" : "–"} note={plan?.verdict ?? "of the plan"} />
          <Tile label="Cost per hour" value={number(plan?.cost ?? null)} note={answer.now_cost === null ? "where GPUs have prices" : `now ${number(answer.now_cost)}`} />
          <Tile label="Instances" value={number(plan?.instances ?? null)} note="of the plan" />
          <Tile label="Answered in" value={milliseconds(1000 * answer.seconds)} note={waiting ? "a newer answer is on its way" : "up to date"} />
        </Tiles>
      )}
      {!answer && !error && <p class="empty">Planning …</p>}
      {answer?.why && <p class="open">{answer.why}</p>}
    </section>
  );
}

interface SliderProps {
  readonly label: string;
  readonly value: number;
  readonly now: number | null;
  readonly least: number;
  readonly most: number;
  readonly step: number;
  /** Whether equal ways of the slider are equal factors. */
  readonly factor?: boolean;
  readonly set: (value: number | null) => void;
}

const STEPS = 200; // of a slider whose equal ways are equal factors

/** A slider and a field for one number; as it is now where it was not moved. */
function Slider({ label, value, now, least, most, step, factor = false, set }: SliderProps) {
  const changed = now === null || Math.abs(value - now) > 1e-9 * Math.max(1, Math.abs(now));
  const low = factor ? Math.log(least) : least;
  const high = factor ? Math.log(most) : most;
  const steps = factor ? STEPS : Math.round((high - low) / step); // each step is another number
  const at = ((factor ? Math.log(Math.max(least, value)) : value) - low) / (high - low);
  const rounded = (given: number) => {
    const unit = factor ? 10 ** Math.floor(Math.log10(given) - 2) : step;
    return Number((Math.round(given / unit) * unit).toPrecision(6));
  };
  const moved = (share: number) => {
    const next = low + share * (high - low);
    set(rounded(factor ? Math.exp(next) : next));
  };
  return (
    <div class={changed ? "slider changed" : "slider"}>
      <label>
        <span>{label}</span>
        <input type="range" min={0} max={steps} step={1} value={Math.round(at * steps)} aria-valuetext={number(value)} onInput={(event) => moved(Number(event.currentTarget.value) / steps)} />
      </label>
      <NumberField label={label} value={value} set={set} />
      <small>
        {changed ? (
          <button type="button" class="plain" onClick={() => set(null)}>
            {now === null ? "as it is now" : `now ${number(now)}`}
          </button>
        ) : (
          "as it is"
        )}
      </small>
    </div>
  );
}

interface ServiceProps {
  readonly of: api.ServiceInput;
  readonly change: api.ServiceWhatIf | undefined;
  readonly set: (change: Partial<api.ServiceWhatIf>) => void;
}

const QUANTILES = [0.5, 0.9, 0.95, 0.99, 0.999];

function Service({ of, change, set }: ServiceProps) {
  const quantile = change?.quantile ?? of.quantile;
  const choices = [...new Set([...QUANTILES, ...(of.quantile === null ? [] : [of.quantile])])].sort((a, b) => a - b);
  const unlessNow = (now: number | null) => (value: number | null) => (value === now ? null : value);
  return (
    <fieldset class="of">
      <legend>{of.name}</legend>
      <Slider label="Items/s" value={change?.rate ?? of.rate} now={of.rate} least={of.rate / 10 || 1} most={of.rate * 10 || 1000} step={1} factor set={(rate) => set({ rate: unlessNow(of.rate)(rate) })} />
      <Slider
        label="SLO, ms"
        value={change?.latency_ms ?? of.latency_ms}
        now={of.latency_ms}
        least={of.latency_ms / 5}
        most={of.latency_ms * 5}
        step={1}
        factor
        set={(given) => set({ latency_ms: unlessNow(of.latency_ms)(given) })}
      />
      <label class="slider">
        <span>In time</span>
        <select
          value={quantile === null ? "" : String(quantile)}
          onChange={(event) => set({ quantile: unlessNow(of.quantile)(event.currentTarget.value ? Number(event.currentTarget.value) : null) })}
        >
          {of.quantile === null && <option value="">as the table has it</option>}
          {choices.map((one) => (
            <option key={one} value={String(one)}>
              {`${(100 * one).toFixed(one > 0.99 ? 1 : 0)} %`}
            </option>
          ))}
        </select>
      </label>
    </fieldset>
  );
}

interface PoolProps {
  readonly of: api.PoolInput;
  readonly change: api.PoolWhatIf | undefined;
  readonly set: (change: Partial<api.PoolWhatIf>) => void;
}

function Pool({ of, change, set }: PoolProps) {
  const unlessNow = (now: number | null) => (value: number | null) => (value === now ? null : value);
  const count = change?.count ?? of.count;
  const price = change?.price ?? of.price;
  return (
    <fieldset class="of">
      <legend>
        {of.name} {of.name === of.model ? "" : <small>{of.model}</small>}
      </legend>
      {count === null ? (
        <p>
          As many GPUs as are needed.{" "}
          <button type="button" onClick={() => set({ count: 8 })}>
            Limit
          </button>
        </p>
      ) : (
        <Slider label="GPUs" value={count} now={of.count} least={0} most={Math.max(16, 2 * (of.count ?? 32))} step={1} set={(given) => set({ count: unlessNow(of.count)(given === null ? null : Math.round(given)) })} />
      )}
      {price === null ? (
        <p>
          No price.{" "}
          <button type="button" onClick={() => set({ price: 1 })}>
            Set
          </button>
        </p>
      ) : (
        <Slider label="Price/h" value={price} now={of.price} least={0.05} most={Math.max(5, 3 * (of.price ?? 0))} step={0.05} set={(given) => set({ price: unlessNow(of.price)(given) })} />
      )}
    </fieldset>
  );
}

const SHORT: readonly Column<readonly [string, number]>[] = [
  { title: "Service", value: ([name]) => name },
  { title: "Items/s too few", value: ([, value]) => value, show: ([, value]) => number(value), number: true },
];
const BINDS: readonly Column<readonly [string, string]>[] = [
  { title: "Service", value: ([name]) => name },
  { title: "Bound by", value: ([, text]) => text, wide: true },
];

function Said({ answer }: { answer: api.WhatIfAnswer }) {
  const short = Object.entries(answer.short);
  const binds = Object.entries(answer.binds);
  return (
    <>
      {short.length > 0 && (
        <section aria-label="Too little">
          <h2>What falls short</h2>
          <Table label="What falls short" rows={short} columns={SHORT} name={([name]) => name} filtered={false} />
        </section>
      )}
      {binds.length > 0 && (
        <section aria-label="What binds">
          <h2>What binds what was changed</h2>
          <Table label="What binds" rows={binds} columns={BINDS} name={([name]) => name} filtered={false} />
        </section>
      )}
      <div class="columns">
        <Copied title="As a command" text={answer.command} />
        <Copied title="As YAML" text={answer.yaml} />
      </div>
    </>
  );
}

function Copied({ title, text }: { title: string; text: string }) {
  const copied = useSignal(false);
  if (!text) return null;
  return (
    <section aria-label={title}>
      <h2>
        {title}{" "}
        <button
          type="button"
          onClick={() => void navigator.clipboard.writeText(text).then(() => (copied.value = true), () => undefined)}
        >
          {copied.value ? "Copied" : "Copy"}
        </button>
      </h2>
      <pre tabIndex={0}>{text}</pre>
    </section>
  );
}

function Choose({ inputs, chosen }: { inputs: api.WhatIfInputs; chosen: { value: readonly string[] } }) {
  const there = new Set(chosen.value);
  const columns: readonly Column<api.ServiceInput>[] = [
    {
      title: "Service",
      value: (one) => one.name,
      show: (one) => (
        <button
          type="button"
          class="plain"
          aria-pressed={there.has(one.name)}
          onClick={() => (chosen.value = there.has(one.name) ? chosen.value.filter((name) => name !== one.name) : [one.name, ...chosen.value])}
        >
          {there.has(one.name) ? "− " : "+ "}
          {one.name}
        </button>
      ),
    },
    { title: "Items/s", value: (one) => one.rate, show: (one) => number(one.rate), number: true },
    { title: "SLO", value: (one) => one.latency_ms, show: (one) => milliseconds(one.latency_ms), number: true },
  ];
  return (
    <section aria-label="Services">
      <h2>{plural(inputs.services.length, "service")}: choose which to change</h2>
      <Table label="Services to change" rows={inputs.services} columns={columns} name={(one) => one.name} />
    </section>
  );
}
