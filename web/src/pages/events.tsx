// What happened, newest first: as it comes, and older pages when asked for.
import { EventTable } from "../parts/events";

export function EventsPage() {
  return (
    <>
      <h1 class="unseen">Events</h1>
      <EventTable path="events" />
    </>
  );
}
