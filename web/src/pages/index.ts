// The pages, in the order of the navigation. A page is one file here, and one line below.
import type { FunctionComponent } from "preact";
import type * as api from "../model";
import { ChangePage } from "./change";
import { EnergyPage } from "./energy";
import { EventsPage } from "./events";
import { FleetPage } from "./fleet";
import { GpuPage } from "./gpu";
import { JobsPage } from "./jobs";
import { ReportPage } from "./report";
import { ServicesPage } from "./services";
import { WhatIfPage } from "./what-if";

export interface Page {
  /** The first part of its address: `#/fleet`. */
  readonly path: string;
  /** What the navigation calls it; without one, others lead there. */
  readonly title: string | null;
  /** The part of the API, or the report, without which there is no such page; null for pages that all APIs have. */
  readonly part: api.Part | "report" | null;
  readonly show: FunctionComponent;
}

export const PAGES: readonly Page[] = [
  { path: "report", title: "Report", part: "report", show: ReportPage },
  { path: "fleet", title: "Fleet", part: "fleet", show: FleetPage },
  { path: "gpu", title: null, part: "fleet", show: GpuPage },
  { path: "services", title: "Services", part: "services", show: ServicesPage },
  { path: "what-if", title: "What if", part: "what-if", show: WhatIfPage },
  { path: "change", title: "Change", part: "transitions", show: ChangePage },
  { path: "jobs", title: "Jobs", part: "jobs", show: JobsPage },
  { path: "energy", title: "Energy", part: "energy", show: EnergyPage },
  { path: "events", title: "Events", part: null, show: EventsPage },
];
