// Written by `make web` from docs/openapi.json and docs/report.schema.json.

/** What was begun. */
export interface Accepted {
  readonly id: string;
  readonly text: string;
}

/** An action, predicted and actual; times are seconds from the transition's begin. */
export interface ActionBar {
  readonly began: number | null;
  readonly begin: number;
  readonly end: number;
  readonly ended: number | null;
  readonly error: string | null;
  readonly gpu: string;
  readonly id: string;
  readonly kind: string;
  readonly placement: string;
  readonly service: string | null;
}

/** `POST /api/v1/apply`: apply a plan document; with `If-Match` of the state that it was made for. */
export interface Apply {
  readonly plan: Readonly<Record<string, unknown>>;
}

/** A number beside others. */
export interface Bar {
  readonly name: string;
  readonly value: number;
}

/** A service's capacity over a transition, in steps: (second, items/s), with its floor. */
export interface CapacityLine {
  readonly actual: readonly [number, number][];
  readonly floor: number;
  readonly predicted: readonly [number, number][];
  readonly service: string;
}

/** Values over time, in steps. */
export interface Chart {
  readonly unit: string;
  /** End of each period, in hours; the first begins at 0. */
  readonly ends: readonly number[];
  /** Begin of each period, in words. */
  readonly begins: readonly string[];
  readonly lines: readonly Line[];
}

/** Event `fault`: why the cluster cannot be seen; null once it can again. */
export interface ClusterFault {
  readonly fault: Fault | null;
}

/** A column of a table. */
export interface Column {
  readonly name: string;
  readonly kind: ColumnKind;
  readonly values: readonly (string | number | null)[];
  /** Significant digits of numbers; decimals of percentages. */
  readonly digits: number;
  /** What is written where there is no value. */
  readonly none: string;
  /** Rows whose value is an estimate. */
  readonly estimated: readonly number[];
}

/** How the values of a column are written, and whether they sort as numbers. */
export type ColumnKind = "bar" | "change" | "number" | "service" | "share" | "text";

/** `GET /api/v1/plan/difference`: from what runs to the plan. */
export interface Difference {
  readonly actions: number;
  readonly gpus: readonly string[];
  readonly moves: number;
  readonly seconds: number;
  readonly services: readonly ServiceDifference[];
}

/** `GET /api/v1/energy?since=SECONDS`. */
export interface Energy {
  readonly rows: readonly EnergyRow[];
  readonly since: number;
  readonly watts: number | null;
}

/** Energy and cost of one service, job or idle GPUs. Idle is a row like others. */
export interface EnergyRow {
  readonly cost: number | null;
  readonly joules: number | null;
  /** service, job, idle, or other. */
  readonly kind: string;
  readonly name: string;
  /** GPU-seconds, by share of the GPU. */
  readonly seconds: number;
}

/** An entry of the journal, or something else that happened; also event `event` of the stream. */
export interface Event {
  readonly at: number;
  readonly ended: number | null;
  readonly error: string | null;
  readonly gpu: string | null;
  readonly job: string | null;
  /** goal, action, note, job, fault or state. */
  readonly kind: string;
  readonly number: number;
  readonly service: string | null;
  readonly text: string;
}

/** `GET /api/v1/events?after=CURSOR&limit=N`: newest first. */
export interface EventPage {
  readonly events: readonly Event[];
  readonly next: string | null;
}

/** `GET /api/v1/services/{name}/explain`: what binds a service, as `partita explain --output json` says it. */
export interface Explanation {
  readonly explanation: Readonly<Record<string, unknown>>;
  readonly service: string;
}

/** The body of every error: what, where, how to mend it. */
export interface Fault {
  readonly error: string;
  readonly hint: string | null;
  readonly where: string | null;
}

/** A figure at the top of a report, as it is written. */
export interface Figure {
  readonly name: string;
  readonly text: string;
}

/** `GET /api/v1/fleet`: all GPUs and how they are cut. */
export interface Fleet {
  readonly gpus: GpuColumns;
  readonly instances: InstanceColumns;
  readonly models: readonly GpuModel[];
  readonly nodes: readonly Node[];
  /** The goal's instances, where they differ from what runs. */
  readonly planned: InstanceColumns | null;
  readonly services: readonly string[];
  readonly states: readonly InstanceState[];
  /** Changes when anything here does; also the ETag. */
  readonly version: string;
}

/** GPUs, how they are cut and what runs there; with `fleet.planned`, before and after a change. */
export interface FleetPart {
  readonly fleet: Fleet;
  readonly points: readonly OperatingPoint[];
  /** Index into `points` of each instance; -1 for none. */
  readonly point: readonly number[];
  /** The same of each instance of `fleet.planned`. */
  readonly planned_point: readonly number[];
  readonly pools: readonly string[];
  /** Index into `pools` of each GPU; empty without. */
  readonly pool: readonly number[];
  /** GPUs that are left out. */
  readonly left: number;
}

/** `GET /api/v1/gpus/{id}` and the elements of `GET /api/v1/gpus`. */
export interface Gpu {
  /** Share of its free memory slices that the largest instance that fits does not use. */
  readonly fragmentation: number;
  /** Share of its compute slices that instances with work hold. */
  readonly held: number;
  readonly id: string;
  readonly instances: readonly InstanceDetail[];
  readonly model: string;
  readonly node: string;
  /** usable, MIG off, leaving or lost. */
  readonly state: string;
  readonly uuid: string;
  readonly watts: number | null;
  /** Share of its compute that is at work; null where unknown. */
  readonly working: number | null;
}

/** Event `gpu`: one GPU's instances, now. All of its earlier ones are gone. */
export interface GpuChange {
  /** Version that it changes; a client with another one loads the fleet anew. */
  readonly before: string;
  /** Version of the fleet with this change. */
  readonly fleet: string;
  readonly gpu: number;
  readonly instance_state: readonly number[];
  readonly job: readonly (string | null)[];
  readonly profile: readonly number[];
  readonly service: readonly number[];
  /** All services on an instance that several share, by its place in these lists. */
  readonly shared: Readonly<Record<string, readonly number[]>>;
  readonly start: readonly number[];
  readonly state: number;
}

/** All GPUs, a list for each field, in one order: by node, then by number. */
export interface GpuColumns {
  readonly id: readonly string[];
  /** Index into `models`. */
  readonly model: readonly number[];
  /** Index into `nodes`. */
  readonly node: readonly number[];
  /** 0 usable, 1 MIG is off, 2 leaving, 3 lost. */
  readonly state: readonly number[];
}

/** How a GPU was cut from a time on. */
export interface GpuCut {
  readonly at: number;
  readonly instances: readonly string[];
}

/** `GET /api/v1/gpus/{id}/history`: its cuts and events, newest first, and its energy by who used it. */
export interface GpuHistory {
  readonly cuts: readonly GpuCut[];
  readonly energy: readonly EnergyRow[];
  readonly events: readonly Event[];
}

/** A GPU model: its memory slices, and the profiles that it can be cut into. */
export interface GpuModel {
  readonly compute_slices: number;
  readonly memory_bytes: number;
  readonly memory_slices: number;
  readonly name: string;
  readonly profiles: readonly ProfileSize[];
}

/** `GET /api/v1/gpus?after=CURSOR&limit=N&q=TEXT`. */
export interface GpuPage {
  readonly gpus: readonly Gpu[];
  readonly next: string | null;
}

/** Event `hello`, the first one of each connection: what the server is, and where the stream stands. */
export interface Hello {
  /** Version of the fleet. */
  readonly fleet: string;
  /** Number of the newest event. */
  readonly last_event: number;
  /** Version of Partita; a page of another one loads itself anew. */
  readonly version: string;
}

/** How many values fall into each of a number of equal bins from 0 to `most`; the last has all beyond. */
export interface Histogram {
  readonly unit: string;
  readonly most: number;
  readonly counts: readonly number[];
  /** A value to compare with. */
  readonly mark: number;
  readonly mark_name: string;
}

/** `GET /api/v1`: what this API is, and what the caller may do. */
export interface Index {
  /** Name of the cluster or host. */
  readonly cluster: string;
  /** Why the cluster cannot be seen now; all that is shown is older. */
  readonly fault: Fault | null;
  /** Number of the newest event of the stream. */
  readonly last_event: number;
  /** What is missing, and why: such as a gateway that does not answer. */
  readonly notes: readonly string[];
  /** The cluster's clock. */
  readonly now: number;
  readonly parts: readonly Part[];
  readonly role: Role;
  /** Version of the whole state; also its ETag. */
  readonly state: string;
  /** Version of Partita. */
  readonly version: string;
  /** Name of the workload that runs. */
  readonly workload: string | null;
}

/** All instances, a list for each field, by GPU and then by start. */
export interface InstanceColumns {
  /** Index into `gpus`. */
  readonly gpu: readonly number[];
  /** Ids of jobs by the instance's index, as JSON has only text keys. */
  readonly job: Readonly<Record<string, string>>;
  /** Index into the profiles of the GPU's model. */
  readonly profile: readonly number[];
  /** Index into `services`; -1 for none. */
  readonly service: readonly number[];
  /** All services on an instance that several share, likewise. */
  readonly shared: Readonly<Record<string, readonly number[]>>;
  readonly start: readonly number[];
  /** Index into `states`. */
  readonly state: readonly number[];
}

/** An instance, with all that is known of it. */
export interface InstanceDetail {
  readonly batch: number | null;
  /** Share of the time at work, over the last seconds. */
  readonly busy: number | null;
  readonly gpu_instance_id: number | null;
  readonly job: string | null;
  /** Time of a batch, as planned. */
  readonly latency_ms: number | null;
  readonly mig_uuid: string | null;
  readonly profile: string;
  readonly services: readonly string[];
  /** Time of its batches relative to instances of its size. */
  readonly slowdown: number | null;
  readonly start: number;
  readonly state: InstanceState;
  /** Capacity in items/s, as planned. */
  readonly throughput: number | null;
}

/** What an instance is doing; the dashboard's colours follow it. */
export type InstanceState = "changing" | "draining" | "foreign" | "free" | "job" | "lost" | "serving" | "starting";

/** A job; an element of `GET /api/v1/jobs`; also event `job` of the stream. */
export interface Job {
  /** What to do about it. */
  readonly advice: string | null;
  readonly attempts: readonly JobAttempt[];
  readonly command: string;
  readonly gpu: string | null;
  readonly id: string;
  /** Least and most that it is expected to need. */
  readonly memory_bytes: [number, number | null] | null;
  readonly placement: string | null;
  readonly predicted_start: number | null;
  /** Why it waits, or how it ended. */
  readonly reason: string | null;
  readonly state: string;
  readonly submitted: number;
  readonly user: string;
}

/** An attempt of a job: a step of its ladder of slices. */
export interface JobAttempt {
  readonly began: number | null;
  readonly code: number | null;
  readonly decided: number;
  readonly ended: number | null;
  readonly gpu: string;
  readonly limit_bytes: number;
  readonly number: number;
  readonly peak_bytes: number | null;
  readonly placement: string;
  readonly verdict: string | null;
  readonly why: string | null;
}

/** `GET /api/v1/jobs/{id}/log?after=BYTES`: what was written since, and where to go on. */
export interface JobLog {
  readonly next: number;
  readonly over: boolean;
  readonly text: string;
}

/** `GET /api/v1/jobs?after=CURSOR&limit=N&state=STATE&q=TEXT`. */
export interface JobPage {
  /** Jobs by state. */
  readonly counts: Readonly<Record<string, number>>;
  readonly jobs: readonly Job[];
  readonly next: string | null;
}

/** Values over time, each for a period of `Chart.ends`. */
export interface Line {
  readonly name: string;
  readonly values: readonly number[];
  /** area, line, dashes or dots. */
  readonly look: string;
}

/** `GET /api/v1/fleet/load`: what all instances of a fleet do now, in the order of its `instances`. */
export interface Load {
  readonly at: number;
  /** Share of its service's queries in time, in thousandths; null where unknown. */
  readonly attainment: readonly (number | null)[];
  /** Share of the time at work, in thousandths; null where unknown. */
  readonly busy: readonly (number | null)[];
  /** Version of the fleet whose instances these are. */
  readonly fleet: string;
  readonly version: string;
  /** By GPU, not by instance; null where unknown. */
  readonly watts: readonly (number | null)[];
}

/** Event `load`: the instances and GPUs whose load changed, a list for each field. */
export interface LoadChange {
  readonly at: number;
  readonly attainment: readonly (number | null)[];
  readonly busy: readonly (number | null)[];
  /** Version of the fleet whose instances these are. */
  readonly fleet: string;
  /** Index into the fleet's `gpus`. */
  readonly gpu: readonly number[];
  /** Index into the fleet's `instances`. */
  readonly index: readonly number[];
  readonly watts: readonly (number | null)[];
}

/** A host with GPUs. */
export interface Node {
  readonly name: string;
  readonly rack: string;
  readonly zone: string;
}

/** How a service runs on an instance; `tenants` are the services that share it. */
export interface OperatingPoint {
  readonly service: string;
  readonly model: string;
  readonly batch: number;
  readonly processes: number;
  /** Items/s. */
  readonly throughput: number;
  readonly latency_ms: number;
  readonly estimated: boolean;
  readonly tenants: readonly string[];
  /** Memory of all tenants together. */
  readonly megabytes: number | null;
}

/** A part of the API that a source has; the dashboard hides the pages of the others. */
export type Part = "energy" | "fleet" | "jobs" | "plan" | "services" | "transitions" | "what-if";

/** `GET /api/v1/plan`: the plan that was applied last, or that a what-if found. */
export interface PlanSummary {
  /** No plan has a lower value of the objective, within the capacity model. */
  readonly bound: number | null;
  /** Per hour, where all of its GPUs have prices. */
  readonly cost: number | null;
  /** The plan as `partita plan --out` writes it; of a what-if, where it was asked for. */
  readonly document: Readonly<Record<string, unknown>>;
  readonly gpus: number;
  readonly instances: number;
  /** What was minimised: gpus, cost or watts. */
  readonly objective: string;
  readonly proven: boolean;
  /** Of the objective; null where it is not known. */
  readonly value: number | null;
  /** Such as `proven optimal`. */
  readonly verdict: string;
  readonly version: string;
}

/** A pool of GPUs as the workload has it now. */
export interface PoolInput {
  /** Null where there are as many as are needed. */
  readonly count: number | null;
  readonly model: string;
  readonly name: string;
  /** Of one GPU per hour. */
  readonly price: number | null;
}

/** Another count or price of a pool; what is null stays. */
export interface PoolWhatIf {
  readonly count?: number | null;
  readonly price?: number | null;
}

/** A profile of a GPU model: how many memory and compute slices it takes. */
export interface ProfileSize {
  readonly compute: number;
  readonly memory: number;
  readonly name: string;
  readonly starts: readonly number[];
}

/** A whole report. */
export interface Report {
  readonly title: string;
  readonly headline: string;
  readonly verdict: string;
  /** Whether the verdict is what one hopes for. */
  readonly good: boolean;
  readonly figures: readonly Figure[];
  readonly sections: readonly Section[];
  readonly footer: string;
  /** Version of Partita that made it. */
  readonly version: string;
  readonly notes: readonly string[];
  /** Name of what was planned, mostly its file. */
  readonly workload: string | null;
  /** When, in seconds since 1970. */
  readonly made: number | null;
}

/** Event `reset`: events are missing, or the structure changed; load everything anew. */
export interface Reset {
  /** Version of the fleet, at least. */
  readonly fleet: string;
  readonly why: string;
}

/** What a token may do: look, or change things, too. */
export type Role = "read" | "write";

/** A part of a report: its heading, what has to be said about it, and its drawing. */
export interface Section {
  readonly title: string;
  readonly notes: readonly string[];
  readonly table: Table | null;
  readonly gpus: FleetPart | null;
  readonly transition: TransitionPart | null;
  readonly chart: Chart | null;
  readonly histogram: Histogram | null;
  readonly bars: readonly Bar[];
}

/** `GET /api/v1/services/{name}/series` and `/api/v1/fleet/series`: values over time, a list for each name. */
export interface Series {
  readonly at: readonly number[];
  /** Seconds between two points. */
  readonly step: number;
  readonly values: Readonly<Record<string, readonly (number | null)[]>>;
}

/** A service, as it is now; also event `services` of the stream, with those that changed. */
export interface Service {
  /** Share in time, over the last minutes. */
  readonly attainment: number | null;
  /** Capacity that is ready. */
  readonly capacity: number;
  /** Capacity that is kept now, also during a transition. */
  readonly floor: number;
  readonly in_flight: number | null;
  readonly instances: number;
  readonly name: string;
  readonly p50_ms: number | null;
  readonly p95_ms: number | null;
  readonly p99_ms: number | null;
  /** Capacity of the plan. */
  readonly planned: number;
  /** Share of the queries that the SLO promises. */
  readonly quantile: number | null;
  readonly queue: number | null;
  /** Observed over the last seconds; null without a gateway. */
  readonly rate: number | null;
  /** Queries refused over the last minutes, by reason. */
  readonly refused: Readonly<Record<string, number>>;
  /** Rate that is wanted, items/s. */
  readonly required: number;
  readonly slo_ms: number | null;
  /** Instances by GPU model and profile. */
  readonly where: Readonly<Record<string, number>>;
}

/** What a transition does to one service: capacities in items/s, replicas by what becomes of them. */
export interface ServiceDifference {
  readonly after: number;
  readonly before: number;
  readonly end: number;
  readonly floor: number;
  readonly least: number;
  readonly move: number;
  readonly name: string;
  readonly new: number;
  readonly stand_in: number;
  readonly stay: number;
}

/** A service as the workload asks for it now. */
export interface ServiceInput {
  readonly latency_ms: number;
  readonly name: string;
  /** Share of the queries that the SLO promises. */
  readonly quantile: number | null;
  /** Items/s. */
  readonly rate: number;
}

/** `GET /api/v1/services?after=CURSOR&limit=N&q=TEXT`. */
export interface ServicePage {
  readonly next: string | null;
  readonly services: readonly Service[];
  readonly total: number;
}

/** Another rate or SLO of a service; what is null stays. */
export interface ServiceWhatIf {
  readonly latency_ms?: number | null;
  readonly quantile?: number | null;
  readonly rate?: number | null;
}

/** Who asks, and what that role may do. */
export interface Session {
  readonly role: Role;
}

/** `POST /api/v1/session`: sign in with a token; the answer sets a cookie. */
export interface SignIn {
  readonly token: string;
}

/** `POST /api/v1/jobs`: submit a job. */
export interface Submit {
  readonly command: readonly string[];
  readonly directory?: string | null;
  readonly memory_bytes?: number | null;
}

/** Rows by column; all columns are of one length. */
export interface Table {
  readonly columns: readonly Column[];
  /** Rows that are left out. */
  readonly left: number;
}

/** An element of `GET /api/v1/transitions`, newest first; also event `transition` of the stream. */
export interface Transition {
  readonly actions: number;
  readonly at: number;
  readonly command: string;
  readonly done: number;
  readonly ended: number | null;
  readonly id: string;
  readonly replans: number;
  /** Predicted for the whole. */
  readonly seconds: number;
  readonly state: TransitionState;
}

/** `GET /api/v1/transitions/{id}`. */
export interface TransitionDetail {
  readonly actions: readonly ActionBar[];
  readonly capacity: readonly CapacityLine[];
  readonly notes: readonly Event[];
  readonly transition: Transition;
}

/** `GET /api/v1/transitions?after=CURSOR&limit=N`. */
export interface TransitionPage {
  readonly next: string | null;
  readonly transitions: readonly Transition[];
}

/** A transition over time. */
export interface TransitionPart {
  readonly detail: TransitionDetail;
  /** GPUs in use; the floor is the most before and after. */
  readonly in_use: CapacityLine;
  /** Actions that are left out. */
  readonly left: number;
}

/** Where a transition is. */
export type TransitionState = "paused" | "reached" | "replaced" | "running" | "stopped" | "waiting";

/** `POST /api/v1/what-if`: what would be different. Nothing is changed, and no right to write is needed. */
export interface WhatIf {
  /** Return the plan's document, too, which can be applied. */
  readonly document?: boolean;
  /** Changes by pool. */
  readonly pools?: Readonly<Record<string, PoolWhatIf>>;
  /** Time limit of the search. */
  readonly seconds?: number;
  /** Changes by service; others are as in the workload. */
  readonly services?: Readonly<Record<string, ServiceWhatIf>>;
  /** Return the bound alone, or the plan. */
  readonly until?: string;
}

/** What a what-if found. That the GPUs do not suffice is an answer, not an error. */
export interface WhatIfAnswer {
  /** What binds each changed service. */
  readonly binds: Readonly<Record<string, string>>;
  /** No plan has a lower value of the objective; null where there is no plan. */
  readonly bound: number | null;
  /** The same on the command line. */
  readonly command: string;
  /** Whether there is a plan, as far as was searched. */
  readonly feasible: boolean;
  /** GPUs of the plan that was applied. */
  readonly now: number | null;
  /** Cost per hour of the plan that was applied. */
  readonly now_cost: number | null;
  /** The unit of `bound`: gpus, cost (per hour) or watts. */
  readonly objective: string;
  readonly plan: PlanSummary | null;
  readonly seconds: number;
  /** Items/s that services would fall short. */
  readonly short: Readonly<Record<string, number>>;
  /** Why there is no plan, and what would help. */
  readonly why: string | null;
  /** The changed entries of the workload, to be written over theirs. */
  readonly yaml: string;
}

/** `GET /api/v1/what-if`: what a what-if may change, as it is now. */
export interface WhatIfInputs {
  /** What is minimised: gpus, cost or watts. */
  readonly objective: string;
  readonly pools: readonly PoolInput[];
  readonly services: readonly ServiceInput[];
}
