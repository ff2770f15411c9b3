// A table of events, newest first, that new ones join as they come.
import { useSignal } from "@preact/signals";
import { useLayoutEffect } from "preact/hooks";
import { duration, time } from "../format";
import type * as api from "../model";
import { link, on, source } from "../state";
import { Table, type Column } from "./table";
import { Trouble } from "./tiles";

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
  const events = useSignal<readonly api.Event[] | null>(null);
  const next = useSignal<string | null>(null);
  const error = useSignal<Error | null>(null);
  const load = async (after: string | null) => {
    try {
      const page = (await source.get(`${path}?limit=200${after ? `&after=${encodeURIComponent(after)}` : ""}`)) as api.EventPage;
      events.value = after ? [...(events.value ?? []), ...page.events] : page.events;
      next.value = page.next;
      error.value = null;
    } catch (caught) {
      error.value = caught as Error;
    }
  };
  useLayoutEffect(() => {
    void load(null);
    const ends = [
      on("event", (event) => {
        const rest = (events.peek() ?? []).filter((one) => one.number !== event.number);
        events.value = [event, ...rest].sort((a, b) => b.number - a.number).slice(0, KEPT);
      }),
      on("reset", () => void load(null)),
    ];
    return () => ends.forEach((end) => end());
  }, [path]);
  if (!events.value) return error.value ? <Trouble error={error.value} /> : <p class="empty">Loading …</p>;
  return (
    <>
      {error.value && <Trouble error={error.value} />}
      <Table label="Events" rows={events.value} columns={EVENT_COLUMNS} name={(one) => String(one.number)} empty="Nothing has happened yet." />
      {next.value && (
        <p>
          <button type="button" onClick={() => void load(next.value)}>
            Older
          </button>
        </p>
      )}
    </>
  );
}
