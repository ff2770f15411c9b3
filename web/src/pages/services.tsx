// All services as a table; one of them with its figures, its lines over time, where it runs and why.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useMemo } from "preact/hooks";
import { inTime, milliseconds, number, plural, share } from "../format";
import type * as api from "../model";
import { Chart } from "../parts/chart";
import { Explained } from "../parts/explained";
import { Table, type Column } from "../parts/table";
import { Bar, Choice, Loaded, Tile, Tiles, Trouble } from "../parts/tiles";
import { loadServices, MINUTES, misses, missOf, refusals, services, servicesError, short } from "../services";
import { has, link, route, useDocument } from "../state";

export function ServicesPage() {
  useLayoutEffect(() => void (services.peek() ?? loadServices()), []);
  const known = services.value;
  if (servicesError.value && !known) return <Trouble error={servicesError.value} />;
  if (!known) return <p class="empty">Loading …</p>;
  const name = route.value.rest;
  if (!name) return <AllServices of={[...known.values()]} />;
  const service = known.get(name);
  return service ? <OneService service={service} key={name} /> : (
    <p class="empty">
      No service is called {name} now. <a href={link("services")}>All services</a>
    </p>
  );
}

const promise = (service: api.Service) =>
  service.slo_ms === null ? "–" : `${share(service.quantile)} in ${milliseconds(service.slo_ms)}`;

/** Why some services miss what they promise; nothing where none does. */
function Misses({ of }: { of: readonly api.Service[] }) {
  const all = of.flatMap((one) => {
    const miss = missOf(one);
    return miss ? [[one, miss] as const] : [];
  });
  if (!all.length) return null;
  return (
    <ul class="misses" aria-label="What is missed, and why">
      {all.slice(0, MOST).map(([one, { said, page }]) => (
        <li key={one.name}>
          <a href={link("services", one.name)}>{one.name}</a>:{" "}
          {misses(one) && `${inTime(one.attainment)} in time, ${promise(one)} promised. `}
          {said.join(" ")}
          {page && has(page === "change" ? "transitions" : page) && (
            <>
              {" "}
              <a href={link(page)}>{page === "change" ? "Change" : "What if"}</a>
            </>
          )}
        </li>
      ))}
      {all.length > MOST && <li>{plural(all.length - MOST, "more service")}</li>}
    </ul>
  );
}

const MOST = 5; // services whose misses are written out

const ESTIMATED = "Of the last minute, estimated from a histogram of which the SLO is a bound";

const COLUMNS: readonly Column<api.Service>[] = [
  {
    title: "Service",
    value: (one) => one.name,
    show: (one) => <a href={link("services", one.name)}>{one.name}</a>,
  },
  {
    title: "In time",
    value: (one) => one.attainment,
    show: (one) => <span class={misses(one) ? "bad" : ""}>{inTime(one.attainment)}</span>,
    number: true,
    hint: `Share of the queries within the SLO, in the last ${MINUTES}`,
  },
  { title: "SLO", value: (one) => one.slo_ms, show: promise, number: true },
  { title: "p50", value: (one) => one.p50_ms, show: (one) => milliseconds(one.p50_ms), number: true, hint: ESTIMATED },
  { title: "p99", value: (one) => one.p99_ms, show: (one) => milliseconds(one.p99_ms), number: true, hint: ESTIMATED },
  { title: "Rate/s", value: (one) => one.rate, show: (one) => number(one.rate), number: true, hint: "Items/s that come" },
  { title: "Required/s", value: (one) => one.required, show: (one) => number(one.required), number: true, hint: "Items/s that are wanted" },
  {
    title: "Capacity/s",
    value: (one) => one.capacity,
    show: (one) => <span class={short(one) ? "bad" : ""}>{number(one.capacity)}</span>,
    number: true,
    hint: "Items/s that are ready",
  },
  {
    title: "Used",
    value: (one) => (one.rate === null || !one.capacity ? null : one.rate / one.capacity),
    show: (one) => {
      const used = one.rate === null || !one.capacity ? null : one.rate / one.capacity;
      return <Bar share={used}>{share(used)}</Bar>;
    },
    number: true,
    hint: "Rate over capacity",
  },
  { title: "Queue", value: (one) => one.queue, show: (one) => number(one.queue), number: true },
  { title: "Refused", value: refusals, show: (one) => number(refusals(one)), number: true, hint: `Queries, in the last ${MINUTES}` },
  { title: "Instances", value: (one) => one.instances, number: true },
];

function AllServices({ of }: { of: readonly api.Service[] }) {
  const missing = of.filter(misses).length;
  const low = of.filter(short).length;
  const known = of.filter((one) => one.attainment !== null).length;
  const sum = (value: (one: api.Service) => number | null) =>
    of.reduce<number | null>((all, one) => (value(one) === null ? all : (all ?? 0) + value(one)!), null);
  return (
    <>
      <h1 class="unseen">Services</h1>
      <Tiles>
        <Tile label="Services" value={number(of.length)} note={`${number(sum((one) => one.instances))} instances`} />
        <Tile
          label="Miss their SLO"
          value={known ? number(missing) : number(null)}
          note={known === of.length ? `in the last ${MINUTES}` : known ? `of ${known} whose queries are seen` : "no queries are seen here"}
          bad={missing > 0}
        />
        <Tile label="Below their floor" value={number(low)} note="capacity that is ready" bad={low > 0} />
        <Tile label="Rate" value={number(sum((one) => one.rate))} note={`items/s, of ${number(sum((one) => one.required))} required`} />
        <Tile label="Queue" value={number(sum((one) => one.queue))} note={`queries wait, ${number(sum((one) => one.in_flight))} in flight`} />
        <Tile label="Refused" value={number(sum(refusals))} note={`queries, in the last ${MINUTES}`} />
      </Tiles>
      <Misses of={of} />
      <Table
        label="Services"
        rows={of}
        columns={COLUMNS}
        name={(one) => one.name}
        sort={0}
        empty={
          <>
            No service runs or is planned. Apply a workload: <code>partita apply workload.yaml</code>; on Kubernetes, <code>kubectl apply -f workload.yaml</code>.
          </>
        }
      />
    </>
  );
}

const SPANS = [
  ["3600", "Hour"],
  ["86400", "Day"],
  ["2592000", "30 days"],
] as const;

function OneService({ service }: { service: api.Service }) {
  const path = `services/${encodeURIComponent(service.name)}`;
  const seconds = useSignal("3600");
  const where = useMemo(() => Object.entries(service.where), [service.where]);
  const refused = useMemo(() => Object.entries(service.refused), [service.refused]);
  return (
    <>
      <div class="heading">
        <h1>{service.name}</h1>
        <p>
          <a href={link("services")}>All services</a> · <a href={`${link("fleet")}?service=${encodeURIComponent(service.name)}`}>Light up in the fleet</a>
        </p>
      </div>
      <Tiles>
        <Tile label="In time" value={inTime(service.attainment)} note={service.slo_ms === null ? `in the last ${MINUTES}` : `promised: ${promise(service)}`} bad={misses(service)} />
        <Tile label="Rate" value={number(service.rate)} note={`items/s, of ${number(service.required)} required`} />
        <Tile
          label="Capacity"
          value={number(service.capacity)}
          note={`items/s; floor ${number(service.floor)}, planned ${number(service.planned)}`}
          bad={short(service)}
        />
        <Tile label="Latency" value={milliseconds(service.p50_ms)} note={`median; p95 ${milliseconds(service.p95_ms)}, p99 ${milliseconds(service.p99_ms)}, estimated`} />
        <Tile label="Queue" value={number(service.queue)} note={`queries wait, ${number(service.in_flight)} in flight`} />
        <Tile label="Refused" value={number(refusals(service))} note={`in the last ${MINUTES}`} />
        <Tile label="Instances" value={number(service.instances)} note={plural(where.length, "kind of slice", "kinds of slices")} />
      </Tiles>
      <Misses of={[service]} />
      <Choice legend="Over" name="span" value={seconds} of={SPANS} />
      <Lines service={service} path={path} seconds={Number(seconds.value)} />
      <div class="columns">
        <section aria-label="Where it runs">
          <h2>Where it runs</h2>
          <Table
            label="Where it runs"
            rows={where}
            name={([slice]) => slice}
            sort={-2}
            filtered={false}
            columns={[
              { title: "GPU model and profile", value: ([slice]) => slice },
              { title: "Instances", value: ([, count]) => count, number: true },
            ]}
            empty="It runs nowhere now: Change shows whether a transition is on its way."
          />
        </section>
        <section aria-label="Refused">
          <h2>Refused</h2>
          <Table
            label="Refused queries by reason"
            rows={refused}
            name={([reason]) => reason}
            sort={-2}
            filtered={false}
            columns={[
              { title: "Reason", value: ([reason]) => reason },
              { title: "Queries", value: ([, count]) => count, number: true },
            ]}
            empty={`No query was refused in the last ${MINUTES}.`}
          />
        </section>
      </div>
      <Why path={path} />
    </>
  );
}

function Lines({ service, path, seconds }: { service: api.Service; path: string; seconds: number }) {
  const series = useDocument<api.Series>(`${path}/series?seconds=${seconds}`, ["services"], 10);
  return (
    <Loaded of={series}>
      {({ at, values }) => {
        const line = (name: string, key: string) => (values[key] ? [{ name, values: values[key] }] : []);
        const flat = (name: string, value: number | null) =>
          value === null ? [] : [{ name, values: at.map(() => value), reference: true }];
        const key = `service ${service.name}`;
        return (
          <div class="charts">
            <Chart
              title="Rate and capacity, items/s"
              at={at}
              lines={[
                ...line("rate", "rate"),
                ...line("capacity", "capacity"),
                ...(values["floor"] ? [{ name: "floor", values: values["floor"], reference: true }] : flat("floor", service.floor)),
              ]}
              show={number}
              together={key}
            />
            <Chart
              title="Latency"
              at={at}
              lines={[...line("p50", "p50_ms"), ...line("p95", "p95_ms"), ...line("p99", "p99_ms"), ...flat("SLO", service.slo_ms)]}
              show={milliseconds}
              together={key}
            />
            <Chart
              title="In time"
              at={at}
              lines={[...line("in time", "attainment"), ...flat("promised", service.slo_ms === null ? null : service.quantile)]}
              show={inTime}
              least={0.9}
              most={1}
              together={key}
            />
            <Chart title="Queue" at={at} lines={line("queue", "queue")} show={number} together={key} />
          </div>
        );
      }}
    </Loaded>
  );
}

function Why({ path }: { path: string }) {
  const asked = useSignal(false);
  return (
    <section aria-label="Why">
      <h2>Why</h2>
      {asked.value ? (
        <WhyShown path={path} />
      ) : (
        <p>
          <button type="button" onClick={() => (asked.value = true)}>
            Explain
          </button>{" "}
          <small>What binds it on each profile, and what a change of it alone would do.</small>
        </p>
      )}
    </section>
  );
}

function WhyShown({ path }: { path: string }) {
  const found = useDocument<api.Explanation>(`${path}/explain`);
  return <Loaded of={found}>{({ explanation }) => <Explained explanation={explanation} />}</Loaded>;
}
