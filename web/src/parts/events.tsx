// A table of events, newest first, that new ones join as they come.
import { duration, time } from "../format";
import type * as api from "../model";
import { link, on } from "../state";
import { More, usePaged } from "./paged";
import { Table, type Column } from "./table";
import { Loaded } from "./tiles";

const KEPT = 5000; // events that stay when newer ones come

export const EVENT_COLUMNS: readonly Column<api.Event>[] = [
  { title: "Time", value: (one) => one.at, show: (one) => time(one.at) },
  { title: "Kind", value: (one) => one.kind },
  {
    title: "What",
    wide: true,
    value: (one) => one.text,
    show: (one) => (
      <>
        {one.text}
        {one.error && <span class="bad"> {one.error}</span>}
      </>
    ),
  },
  { title: "Took", value: (one) => (one.ended === null ? null : one.ended - one.at), show: (one) => duration(one.ended === null ? null : one.ended - one.at), number: true },
  { title: "GPU", value: (one) => one.gpu, show: (one) => one.gpu && <a href={link("gpu", one.gpu)}>{one.gpu}</a> },
  {
    title: "Service",
    value: (one) => one.service,
    show: (one) => one.service && <a href={link("services", one.service)}>{one.service}</a>,
  },
  { title: "Job", value: (one) => one.job, show: (one) => one.job && <a href={link("jobs", one.job)}>{one.job}</a> },
];

/** Events of a path of the API, by page. */
export function EventTable({ path }: { path: string }) {
  const events = usePaged(`${path}?limit=200`, (page: api.EventPage) => page.events, (one) => `${one.number} ${one.at}`, ({ change }) => [
    on("event", (event) =>
      change((all) =>
        [event, ...all.filter((one) => one.number !== event.number)].sort((a, b) => b.number - a.number).slice(0, KEPT),
      ),
    ),
  ]);
  return (
    <>
      <Loaded of={{ data: events.rows, error: events.error }}>
        {(rows) => <Table label="Events" rows={rows} columns={EVENT_COLUMNS} name={(one) => String(one.number)} empty="Nothing has happened yet. Plans, actions, and what others change stand here as soon as there are any." />}
      </Loaded>
      <p>
        <More of={events}>Older</More>
      </p>
    </>
  );
}
