// Energy and cost by who used them; GPUs that stood idle are a row like others.
import { useSignal } from "@preact/signals";
import { duration, number, scaled, share, time } from "../format";
import type * as api from "../model";
import { Table, type Column } from "../parts/table";
import { Bar, Choice, Loaded, Tile, Tiles } from "../parts/tiles";
import { link, useDocument } from "../state";

/** Seconds back from now; a million and more are seconds since 1970. */
const SPANS = [
  ["3600", "Hour"],
  ["86400", "Day"],
  ["2592000", "30 days"],
  ["1000000", "All"],
] as const;

export function EnergyPage() {
  const seconds = useSignal<(typeof SPANS)[number][0]>("86400");
  return (
    <>
      <h1>Energy and cost</h1>
      <Choice legend="Over" name="span" value={seconds} of={SPANS} />
      <Rows key={seconds.value} since={Number(seconds.value)} />
    </>
  );
}

const sum = (rows: readonly api.EnergyRow[], value: (row: api.EnergyRow) => number | null) =>
  rows.reduce<number | null>((all, row) => (value(row) === null ? all : (all ?? 0) + value(row)!), null);

function Rows({ since }: { since: number }) {
  const energy = useDocument<api.Energy>(`energy?since=${since}`, ["load", "job"], 10);
  return (
    <Loaded of={energy}>
      {({ rows, watts, estimated, since: began }) => {
        const joules = sum(rows, (row) => row.joules);
        const cost = sum(rows, (row) => row.cost);
        const seconds = sum(rows, (row) => row.seconds) ?? 0;
        const idle = rows.filter((row) => row.kind === "idle");
        const unknown = rows.filter((row) => row.joules === null).length;
        const part = (row: api.EnergyRow) => (row.joules === null || !joules ? null : row.joules / joules);
        const who = (row: api.EnergyRow) => {
          if (row.kind === "service") return <a href={link("services", row.name)}>{row.name}</a>;
          if (row.kind === "job") return <a href={link("jobs", row.name)}>{row.name}</a>;
          return row.name;
        };
        const columns: readonly Column<api.EnergyRow>[] = [
          { title: "For", value: (row) => row.name || row.kind, show: (row) => (row.name ? who(row) : row.kind) },
          { title: "Kind", value: (row) => row.kind },
          { title: "Energy", value: (row) => row.joules, show: (row) => (row.joules === null ? "not measured" : scaled(row.joules, "J")), number: true },
          { title: "Of all", value: part, show: (row) => <Bar share={part(row)}>{share(part(row))}</Bar>, number: true },
          { title: "GPU time", value: (row) => row.seconds, show: (row) => duration(row.seconds), number: true, hint: "By share of the GPU" },
          { title: "Cost", value: (row) => row.cost, show: (row) => number(row.cost), number: true },
        ];
        return (
          <>
            <Tiles>
              <Tile label="Energy" value={joules === null ? "not measured" : scaled(joules, "J")} note={unknown && joules !== null ? `without ${number(unknown)} that are not measured` : estimated ? "estimated by the power model" : "of all rows"} />
              <Tile label="Idle" value={share(joules && sum(idle, (row) => row.joules) !== null ? sum(idle, (row) => row.joules)! / joules : null)} note="of the energy" />
              <Tile label="Idle time" value={share(seconds ? (sum(idle, (row) => row.seconds) ?? 0) / seconds : null)} note="of the GPU time" />
              <Tile label="Power" value={scaled(watts, "W")} note={estimated ? "now, estimated" : "now, of GPUs that tell"} />
              <Tile label="Cost" value={number(cost)} note={cost === null ? "no GPU has a price" : "of all rows"} />
            </Tiles>
            {estimated && <p>Estimated by the power model of each GPU, since {time(began)}: no counter can be read here.</p>}
            <Table label="Energy and cost" rows={rows} columns={columns} name={(row) => `${row.kind} ${row.name}`} sort={-3} empty={
                <>
                  No energy was measured in this time: choose a longer one, or start what measures, <code>partita daemon</code> or <code>partita run --jobs</code>.
                </>
              } />
          </>
        );
      }}
    </Loaded>
  );
}
