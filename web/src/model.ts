// Written by `make web` from docs/openapi.json and docs/report.schema.json.

/** What was begun. */
export interface Accepted {
  readonly id: string;
  readonly text: string;
}

/** An action, predicted and actual; times are seconds from the transition's begin. */
export interface ActionBar {
  readonly id: string;
  readonly kind: string;
  readonly gpu: string;
  readonly placement: string;
  readonly service: string | null;
  readonly begin: number;
  readonly end: number;
  readonly began: number | null;
  readonly ended: number | null;
  readonly error: string | null;
}

/** `POST /api/v1/apply`: apply a plan, or a change; with `If-Match` of the state that it was made for. */
export interface Apply {
  /** On a host: a plan's document, which is carried out as it is. */
  readonly plan?: Readonly<Record<string, unknown>> | null;
  /** On Kubernetes, of a Workload, which the controller then plans; on a host its plan is carried out, the one that a what-if with `document` showed for it, and the workload's file stays. */
  readonly change?: WorkloadChange | null;
}

/** A number beside others. */
export interface Bar {
  readonly name: string;
  readonly value: number;
}

/** A service's capacity over a transition, in steps: (second, items/s from then on), with its floor. */
export interface CapacityLine {
  readonly service: string;
  readonly floor: number;
  readonly predicted: readonly [number, number][];
  readonly actual: readonly [number, number][];
  readonly before: number;
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

/** `GET` and `POST /api/v1/plan/difference`: from what runs to the plan that was applied, or to another. */
export interface Difference {
  readonly actions: number;
  /** Predicted. */
  readonly seconds: number;
  /** Replicas that move, are new or end. */
  readonly moves: number;
  /** Those that change. */
  readonly gpus: readonly string[];
  /** Those that change. */
  readonly services: readonly ServiceDifference[];
  /** Most GPUs in use at once. */
  readonly peak_gpus: number;
  /** The state that it was made for: `If-Match` of what applies it. */
  readonly state: string;
  /** Whose GPUs and plan these are; empty on a host, which has one workload alone. */
  readonly workload: string;
}

/** `GET /api/v1/energy?since=SECONDS`. */
export interface Energy {
  /** From when on it is known, if that is later than what was asked for. */
  readonly since: number;
  readonly rows: readonly EnergyRow[];
  readonly watts: number | null;
  /** Whether it is by the power model of each GPU, since no counter can be read. */
  readonly estimated: boolean;
}

/** Energy and cost of one service, job or idle GPUs. Idle is a row like others. */
export interface EnergyRow {
  /** service, job, idle, or other. */
  readonly kind: string;
  readonly name: string;
  readonly joules: number | null;
  /** GPU-seconds, by share of the GPU. */
  readonly seconds: number;
  readonly cost: number | null;
}

/** An entry of the journal, or something else that happened; also event `event` of the stream. */
export interface Event {
  readonly number: number;
  readonly at: number;
  /** goal, action, note, job, fault or state. */
  readonly kind: string;
  readonly text: string;
  readonly gpu: string | null;
  readonly service: string | null;
  readonly job: string | null;
  readonly ended: number | null;
  readonly error: string | null;
}

/** `GET /api/v1/events?after=CURSOR&limit=N`: newest first. */
export interface EventPage {
  readonly events: readonly Event[];
  readonly next: string | null;
}

/** `GET /api/v1/services/{name}/explain`: what binds a service, as `partita explain --output json` says it. */
export interface Explanation {
  readonly service: string;
  readonly explanation: Readonly<Record<string, unknown>>;
}

/** The body of every error: what, where, how to mend it. */
export interface Fault {
  readonly error: string;
  readonly where: string | null;
  readonly hint: string | null;
}

/** A figure at the top of a report, as it is written. */
export interface Figure {
  readonly name: string;
  readonly text: string;
}

/** `GET /api/v1/fleet`: all GPUs and how they are cut. */
export interface Fleet {
  /** Changes when anything here does; also the ETag. */
  readonly version: string;
  readonly models: readonly GpuModel[];
  readonly nodes: readonly Node[];
  readonly services: readonly string[];
  readonly states: readonly InstanceState[];
  readonly gpus: GpuColumns;
  readonly instances: InstanceColumns;
  /** The goal's instances, where they differ from what runs. */
  readonly planned: InstanceColumns | null;
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
  readonly id: string;
  readonly uuid: string;
  readonly model: string;
  readonly node: string;
  /** usable, MIG off, leaving or lost. */
  readonly state: string;
  readonly instances: readonly InstanceDetail[];
  /** Share of its compute slices that instances with work hold. */
  readonly held: number;
  /** Share of its compute that is at work; null where unknown. */
  readonly working: number | null;
  /** Share of its free memory slices that the largest instance that fits does not use. */
  readonly fragmentation: number;
  readonly watts: number | null;
}

/** Event `gpu`: one GPU's instances, now. All of its earlier ones are gone. */
export interface GpuChange {
  /** Version of the fleet with this change. */
  readonly fleet: string;
  /** Version that it changes; a client with another one loads the fleet anew. */
  readonly before: string;
  readonly gpu: number;
  readonly state: number;
  readonly profile: readonly number[];
  readonly start: readonly number[];
  readonly instance_state: readonly number[];
  readonly service: readonly number[];
  readonly job: readonly (string | null)[];
  /** All services on an instance that several share, by its place in these lists. */
  readonly shared: Readonly<Record<string, readonly number[]>>;
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

/** `GET /api/v1/gpus/{id}/history`: its cuts and events, newest first, and its energy of a day by who used it. */
export interface GpuHistory {
  readonly cuts: readonly GpuCut[];
  readonly events: readonly Event[];
  readonly energy: readonly EnergyRow[];
  /** From when on cuts and events are known; null where from the begin. */
  readonly since: number | null;
}

/** A GPU model: its memory slices, and the profiles that it can be cut into. */
export interface GpuModel {
  readonly name: string;
  readonly memory_slices: number;
  readonly compute_slices: number;
  readonly memory_bytes: number;
  readonly profiles: readonly ProfileSize[];
}

/** `GET /api/v1/gpus?after=CURSOR&limit=N&q=TEXT`. */
export interface GpuPage {
  readonly gpus: readonly Gpu[];
  readonly next: string | null;
}

/** Event `hello`, the first one of each connection: what the server is, and where the stream stands. */
export interface Hello {
  /** Version of Partita; a page of another one loads itself anew. */
  readonly version: string;
  /** Version of the fleet. */
  readonly fleet: string;
  /** Number of the newest event. */
  readonly last_event: number;
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
  /** Version of Partita. */
  readonly version: string;
  /** Name of the cluster or host. */
  readonly cluster: string;
  /** Name of the workload that runs. */
  readonly workload: string | null;
  /** The cluster's clock. */
  readonly now: number;
  readonly role: Role;
  readonly parts: readonly Part[];
  /** Version of the whole state. */
  readonly state: string;
  /** Number of the newest event of the stream. */
  readonly last_event: number;
  /** What cannot be seen now, all or a part such as the journal, and why; it is shown as it was. */
  readonly fault: Fault | null;
  /** What is missing, and why: such as a gateway that does not answer. */
  readonly notes: readonly string[];
}

/** All instances, a list for each field, by GPU and then by start. */
export interface InstanceColumns {
  /** Index into `gpus`. */
  readonly gpu: readonly number[];
  /** Index into the profiles of the GPU's model. */
  readonly profile: readonly number[];
  readonly start: readonly number[];
  /** Index into `states`. */
  readonly state: readonly number[];
  /** Index into `services`; -1 for none. */
  readonly service: readonly number[];
  /** Ids of jobs by the instance's index, as JSON has only text keys. */
  readonly job: Readonly<Record<string, string>>;
  /** All services on an instance that several share, likewise. */
  readonly shared: Readonly<Record<string, readonly number[]>>;
}

/** An instance, with all that is known of it. */
export interface InstanceDetail {
  readonly profile: string;
  readonly start: number;
  readonly state: InstanceState;
  readonly mig_uuid: string | null;
  readonly gpu_instance_id: number | null;
  readonly services: readonly string[];
  readonly job: string | null;
  /** Share of the time at work, over the last seconds. */
  readonly busy: number | null;
  /** Capacity in items/s, as planned. */
  readonly throughput: number | null;
  readonly batch: number | null;
  /** Time of a batch, as planned. */
  readonly latency_ms: number | null;
  /** Time of its batches relative to instances of its size. */
  readonly slowdown: number | null;
}

/** What an instance is doing; the dashboard's colours follow it. */
export type InstanceState = "changing" | "draining" | "foreign" | "free" | "job" | "lost" | "serving" | "starting";

/** A job; an element of `GET /api/v1/jobs`; also event `job` of the stream. Attempts come with one job alone. */
export interface Job {
  readonly id: string;
  readonly user: string;
  /** Empty where it is another user's who is not ours to show. */
  readonly command: string;
  readonly state: string;
  readonly submitted: number;
  /** Why it waits, or how it ended. */
  readonly reason: string | null;
  /** What to do about it. */
  readonly advice: string | null;
  readonly predicted_start: number | null;
  readonly gpu: string | null;
  readonly placement: string | null;
  /** Least and most that it is expected to need. */
  readonly memory_bytes: [number, number | null] | null;
  readonly attempts: readonly JobAttempt[];
  readonly name: string;
}

/** An attempt of a job: a step of its ladder of slices. */
export interface JobAttempt {
  readonly number: number;
  readonly gpu: string;
  readonly placement: string;
  readonly limit_bytes: number;
  readonly decided: number;
  readonly began: number | null;
  readonly ended: number | null;
  readonly verdict: string | null;
  readonly why: string | null;
  readonly code: number | null;
  readonly peak_bytes: number | null;
}

/** `GET /api/v1/jobs/{id}/log?after=BYTES`: what was written since, and where to go on. */
export interface JobLog {
  /** Bytes that are no UTF-8 are replaced. */
  readonly text: string;
  /** `after` of the next piece. */
  readonly next: number;
  /** Whether the attempt has ended and all of its log was read. */
  readonly over: boolean;
  /** 0 where the job never ran. */
  readonly attempt: number;
}

/** `GET /api/v1/jobs?after=CURSOR&limit=N&state=STATE&q=TEXT`. */
export interface JobPage {
  readonly jobs: readonly Job[];
  /** Jobs by state. */
  readonly counts: Readonly<Record<string, number>>;
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
  readonly version: string;
  /** Version of the fleet whose instances these are. */
  readonly fleet: string;
  readonly at: number;
  /** Share of the time at work, in thousandths; null where unknown. */
  readonly busy: readonly (number | null)[];
  /** Share of its service's queries in time, in thousandths; null where unknown. */
  readonly attainment: readonly (number | null)[];
  /** By GPU, not by instance; null where unknown. */
  readonly watts: readonly (number | null)[];
}

/** Event `load`: the instances and GPUs whose load changed, a list for each field. */
export interface LoadChange {
  /** Version of the fleet whose instances these are. */
  readonly fleet: string;
  readonly at: number;
  /** Index into the fleet's `instances`. */
  readonly index: readonly number[];
  readonly busy: readonly (number | null)[];
  readonly attainment: readonly (number | null)[];
  /** Index into the fleet's `gpus`. */
  readonly gpu: readonly number[];
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
export type Part = "energy" | "fleet" | "jobs" | "plan" | "services" | "submit" | "transitions" | "what-if";

/** `GET /api/v1/plan`: the plan that was applied last, or that a what-if found. */
export interface PlanSummary {
  readonly version: string;
  readonly gpus: number;
  /** No plan has a lower value of the objective, within the capacity model. */
  readonly bound: number | null;
  readonly proven: boolean;
  /** Such as `proven optimal`. */
  readonly verdict: string;
  /** Per hour, where all of its GPUs have prices. */
  readonly cost: number | null;
  readonly instances: number;
  /** What was minimised: gpus, cost or watts. */
  readonly objective: string;
  /** Of the objective; null where it is not known. */
  readonly value: number | null;
  /** The plan as `partita plan --out` writes it; of a what-if, where it was asked for. */
  readonly document: Readonly<Record<string, unknown>>;
  /** Whose plan it is; empty on a host, which has one workload alone. */
  readonly workload: string;
  /** All workloads that may be asked for; empty on a host. */
  readonly workloads: readonly string[];
}

/** A pool of GPUs as the workload has it now. */
export interface PoolInput {
  readonly name: string;
  readonly model: string;
  /** Null where there are as many as are needed. */
  readonly count: number | null;
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
  readonly name: string;
  readonly memory: number;
  readonly compute: number;
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
  /** Seconds between two points. */
  readonly step: number;
  readonly at: readonly number[];
  readonly values: Readonly<Record<string, readonly (number | null)[]>>;
}

/** A service, as it is now; also event `services` of the stream, with those that changed. */
export interface Service {
  readonly name: string;
  /** Rate that is wanted, items/s. */
  readonly required: number;
  /** Capacity that is kept now, also during a transition. */
  readonly floor: number;
  /** Capacity that is ready. */
  readonly capacity: number;
  /** Capacity of the plan. */
  readonly planned: number;
  readonly instances: number;
  readonly slo_ms: number | null;
  /** Share of the queries that the SLO promises. */
  readonly quantile: number | null;
  /** Observed over the last seconds; null without a gateway. */
  readonly rate: number | null;
  /** Share in time, over the last minutes. */
  readonly attainment: number | null;
  readonly p50_ms: number | null;
  readonly p95_ms: number | null;
  readonly p99_ms: number | null;
  readonly queue: number | null;
  readonly in_flight: number | null;
  /** Queries refused over the last minutes, by reason. */
  readonly refused: Readonly<Record<string, number>>;
  /** Instances by GPU model and profile. */
  readonly where: Readonly<Record<string, number>>;
}

/** What a transition does to one service: capacities in items/s, replicas by what becomes of them. */
export interface ServiceDifference {
  readonly name: string;
  readonly before: number;
  readonly after: number;
  readonly floor: number;
  readonly least: number;
  readonly stay: number;
  readonly move: number;
  readonly new: number;
  readonly end: number;
  readonly stand_in: number;
}

/** A service as the workload asks for it now. */
export interface ServiceInput {
  readonly name: string;
  /** Items/s. */
  readonly rate: number;
  readonly latency_ms: number;
  /** Share of the queries that the SLO promises. */
  readonly quantile: number | null;
}

/** `GET /api/v1/services?after=CURSOR&limit=N&q=TEXT`. */
export interface ServicePage {
  readonly services: readonly Service[];
  readonly total: number;
  readonly next: string | null;
}

/** Another rate or SLO of a service; what is null stays. */
export interface ServiceWhatIf {
  readonly rate?: number | null;
  readonly latency_ms?: number | null;
  readonly quantile?: number | null;
}

/** Who asks, and what that role may do. */
export interface Session {
  readonly role: Role;
}

/** `POST /api/v1/session`: sign in with a token; the answer sets a cookie. */
export interface SignIn {
  readonly token: string;
}

/** `POST /api/v1/jobs`: submit a job, which runs as the user that `partita dash` runs as. */
export interface Submit {
  readonly command: readonly string[];
  readonly memory_bytes?: number | null;
  readonly directory?: string | null;
  readonly name?: string;
}

/** Rows by column; all columns are of one length. */
export interface Table {
  readonly columns: readonly Column[];
  /** Rows that are left out. */
  readonly left: number;
}

/** An element of `GET /api/v1/transitions`, newest first; also event `transition` of the stream. */
export interface Transition {
  readonly id: string;
  readonly at: number;
  readonly command: string;
  readonly state: TransitionState;
  readonly done: number;
  readonly actions: number;
  /** Predicted for the whole. */
  readonly seconds: number;
  readonly ended: number | null;
  readonly replans: number;
}

/** `GET /api/v1/transitions/{id}?after=CURSOR&limit=N`: its actions by page, the earliest first. */
export interface TransitionDetail {
  readonly transition: Transition;
  readonly actions: readonly ActionBar[];
  /** On the first page alone, each with at most 1,000 steps predicted and actual: of more, steps are left out, but none of the lowest. */
  readonly capacity: readonly CapacityLine[];
  /** On the first page alone: the newest 1,000. */
  readonly notes: readonly Event[];
  /** Cursor of the next page of actions. */
  readonly next: string | null;
}

/** `GET /api/v1/transitions?after=CURSOR&limit=N`. */
export interface TransitionPage {
  readonly transitions: readonly Transition[];
  readonly next: string | null;
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
  /** Changes by service; others are as in the workload. */
  readonly services?: Readonly<Record<string, ServiceWhatIf>>;
  /** Changes by pool. */
  readonly pools?: Readonly<Record<string, PoolWhatIf>>;
  /** Return the bound alone, or the plan. By default `"plan"`. */
  readonly until?: string;
  /** Time limit of the search. By default `10.0`. */
  readonly seconds?: number;
  /** Who asks: a search that was asked for under the same name is ended. */
  readonly client?: string;
  /** Return the plan's document, too, which can be applied. By default `false`. */
  readonly document?: boolean;
  /** Which one is asked about, where there are several. */
  readonly workload?: string;
}

/** What a what-if found. That the GPUs do not suffice is an answer, not an error. */
export interface WhatIfAnswer {
  /** No plan has a lower value of the objective; null where there is no plan. */
  readonly bound: number | null;
  readonly plan: PlanSummary | null;
  /** Whether there is a plan, as far as was searched. */
  readonly feasible: boolean;
  /** GPUs of the plan that was applied. */
  readonly now: number | null;
  /** The unit of `bound`: gpus, cost (per hour) or watts. */
  readonly objective: string;
  /** Cost per hour of the plan that was applied. */
  readonly now_cost: number | null;
  /** Why there is no plan, and what would help. */
  readonly why: string | null;
  /** Items/s that services would fall short. */
  readonly short: Readonly<Record<string, number>>;
  /** What binds each changed service. */
  readonly binds: Readonly<Record<string, string>>;
  /** The same on the command line. */
  readonly command: string;
  /** The changed entries of the workload, to be written over theirs. */
  readonly yaml: string;
  readonly seconds: number;
}

/** `GET /api/v1/what-if?workload=NAME`: what a what-if may change, as it is now. */
export interface WhatIfInputs {
  /** What is minimised: gpus, cost or watts. */
  readonly objective: string;
  readonly services: readonly ServiceInput[];
  readonly pools: readonly PoolInput[];
  /** Whose services and pools these are; empty where there is one workload alone. */
  readonly workload: string;
  /** All that may be asked about, where there may be several. */
  readonly workloads: readonly string[];
}

/** A change of what is asked for, in the terms of a what-if. */
export interface WorkloadChange {
  /** Which one; on Kubernetes `namespace/name`. */
  readonly workload?: string;
  /** Changes by service. */
  readonly services?: Readonly<Record<string, ServiceWhatIf>>;
  /** Changes by pool; of a cluster, prices alone. */
  readonly pools?: Readonly<Record<string, PoolWhatIf>>;
}
