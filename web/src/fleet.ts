// The fleet, kept up to date: structure and load from their documents, then from the stream, GPU by GPU.
import { signal } from "@preact/signals";
import type * as api from "./model";
import { on, source } from "./state";

export interface Instance {
  readonly profile: number;
  readonly start: number;
  readonly state: api.InstanceState;
  /** Index of the service, or -1. */
  readonly service: number;
  readonly shared: readonly number[] | null;
  readonly job: string | null;
  /** Share of the time at work, and of its service's queries in time; null where unknown. */
  busy: number | null;
  attainment: number | null;
}

export const GPU_STATES = ["usable", "MIG is off", "leaving", "lost"] as const;

export interface Gpu {
  /** Its place among all. */
  readonly at: number;
  readonly id: string;
  readonly model: api.GpuModel;
  readonly node: number;
  state: number;
  watts: number | null;
  instances: Instance[];
  /** The goal's instances, where they differ from what runs. */
  planned: Instance[] | null;
}

const thousandths = (value: number | null | undefined) => (value === null || value === undefined ? null : value / 1000);

/** Instances of columns, by GPU. */
function byGpu(fleet: api.Fleet, columns: api.InstanceColumns, gpus: number): Instance[][] {
  const all: Instance[][] = Array.from({ length: gpus }, () => []);
  columns.gpu.forEach((gpu, i) => {
    all[gpu]?.push({
      profile: columns.profile[i]!,
      start: columns.start[i]!,
      state: fleet.states[columns.state[i]!] ?? "free",
      service: columns.service[i]!,
      shared: columns.shared[i] ?? null,
      job: columns.job[i] ?? null,
      busy: null,
      attainment: null,
    });
  });
  return all;
}

export class FleetState {
  readonly models: readonly api.GpuModel[];
  readonly nodes: readonly api.Node[];
  readonly services: readonly string[];
  readonly gpus: readonly Gpu[];
  at = 0;
  private readonly states: readonly api.InstanceState[];
  /** Index of each GPU's first instance among all. */
  private firsts: Int32Array;

  constructor(
    fleet: api.Fleet,
    public version = fleet.version,
  ) {
    this.models = fleet.models;
    this.nodes = fleet.nodes;
    this.services = fleet.services;
    this.states = fleet.states;
    const instances = byGpu(fleet, fleet.instances, fleet.gpus.id.length);
    const planned = fleet.planned ? byGpu(fleet, fleet.planned, fleet.gpus.id.length) : [];
    this.gpus = fleet.gpus.id.map((id, i) => ({
      at: i,
      id,
      model: fleet.models[fleet.gpus.model[i]!]!,
      node: fleet.gpus.node[i]!,
      state: fleet.gpus.state[i]!,
      watts: null,
      instances: instances[i]!,
      planned: planned[i]?.length ? planned[i] : null,
    }));
    this.firsts = new Int32Array(this.gpus.length + 1);
    this.count();
  }

  /** Takes all of the load; false where it is of another version of the fleet. */
  loaded(load: api.Load): boolean {
    if (load.fleet !== this.version) return false;
    this.at = load.at;
    let i = 0;
    this.gpus.forEach((gpu, at) => {
      gpu.watts = load.watts[at] ?? null;
      for (const instance of gpu.instances) {
        instance.busy = thousandths(load.busy[i]);
        instance.attainment = thousandths(load.attainment[i]);
        i += 1;
      }
    });
    return true;
  }

  /** Takes changed instances, and returns their GPUs. */
  reloaded(change: api.LoadChange): number[] {
    if (change.fleet !== this.version) return [];
    this.at = change.at;
    const gpus = change.index.map((index, i) => {
      const gpu = this.gpuOf(index);
      const instance = this.gpus[gpu]?.instances[index - this.firsts[gpu]!];
      if (instance) {
        instance.busy = thousandths(change.busy[i]);
        instance.attainment = thousandths(change.attainment[i]);
      }
      return gpu;
    });
    change.gpu.forEach((gpu, i) => {
      if (this.gpus[gpu]) this.gpus[gpu].watts = change.watts[i] ?? null;
    });
    return [...new Set([...gpus, ...change.gpu])];
  }

  /** Takes one GPU's new instances; false where the change is not the next one. */
  changed(change: api.GpuChange): boolean {
    if (change.fleet === this.version) return true;
    const gpu = this.gpus[change.gpu];
    if (change.before !== this.version || !gpu) return false;
    this.version = change.fleet;
    const before = gpu.instances;
    gpu.state = change.state;
    gpu.instances = change.profile.map((profile, i) => {
      const start = change.start[i]!;
      const same = before.find((one) => one.start === start && one.profile === profile);
      return {
        profile,
        start,
        state: this.states[change.instance_state[i]!] ?? "free",
        service: change.service[i]!,
        shared: same?.shared ?? null,
        job: change.job[i] ?? null,
        busy: same?.busy ?? null,
        attainment: same?.attainment ?? null,
      };
    });
    if (before.length !== gpu.instances.length) this.count();
    return true;
  }

  private count(): void {
    let next = 0;
    this.gpus.forEach((gpu, i) => {
      this.firsts[i] = next;
      next += gpu.instances.length;
    });
    this.firsts[this.gpus.length] = next;
  }

  private gpuOf(index: number): number {
    let low = 0;
    let high = this.gpus.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.firsts[middle]! <= index) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** A cut that the catalogue does not have: somebody else's. */
const UNKNOWN_PROFILE: api.ProfileSize = { name: "unknown", memory: 1, compute: 0, starts: [] };

export const profileOf = (gpu: Gpu, instance: Instance) => gpu.model.profiles[instance.profile] ?? UNKNOWN_PROFILE;

/** Whose an instance is: a job's, or one or several services'; empty where nothing runs on it. */
export function usersOf(fleet: FleetState, instance: Instance): string {
  if (instance.job) return instance.job;
  if (instance.shared) return instance.shared.map((service) => fleet.services[service] ?? "").join(", ");
  return fleet.services[instance.service] ?? "";
}

/** Shares of a GPU's compute slices: held by instances with work, and at work; null where unknown. */
export function usedOf(gpu: Gpu): { held: number; working: number | null } {
  let held = 0;
  let working: number | null = null;
  for (const instance of gpu.instances) {
    const { compute } = profileOf(gpu, instance);
    if (instance.service >= 0 || instance.job || instance.state === "foreign") held += compute;
    if (instance.busy !== null) working = (working ?? 0) + instance.busy * compute;
  }
  const all = gpu.model.compute_slices;
  return { held: held / all, working: working === null ? null : working / all };
}

export const fleet = signal<FleetState | null>(null);
export const fleetError = signal<Error | null>(null);
/** Counts changes of the fleet, for who shows all of it; what each changed, `onGpus` tells. */
export const fleetRevision = signal(0);

const watchers = new Set<(gpus: readonly number[]) => void>();

/** Calls `watcher` with the GPUs of each change. */
export function onGpus(watcher: (gpus: readonly number[]) => void): () => void {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

function told(gpus: readonly number[]): void {
  if (!gpus.length) return;
  fleetRevision.value += 1;
  watchers.forEach((watcher) => watcher(gpus));
}

let loading: Promise<void> | null = null;
/** Whether all was made anew while the fleet was loading: what is loaded may be from before. */
let again = false;
/** Changes that were told while the fleet was loading: what is loaded may be older or newer than each. */
let meanwhile: api.GpuChange[] = [];
/** Load of a fleet that the changes have not led to yet. */
let early: api.Load | null = null;

/** Loads structure and load anew. */
export function loadFleet(): Promise<void> {
  loading ??= load().finally(() => {
    loading = null;
    if (again) void loadFleet();
  });
  return loading;
}

async function load(): Promise<void> {
  meanwhile = [];
  early = null;
  again = false;
  try {
    const [structure, load] = await Promise.all([source.get("fleet"), source.get("fleet/load").catch(() => null)]);
    const next = new FleetState(structure as api.Fleet);
    early = load as api.Load | null;
    takeEarly(next);
    for (const change of meanwhile) {
      if (change.before === next.version) next.changed(change);
      takeEarly(next);
    }
    fleet.value = next;
    fleetError.value = null;
    fleetRevision.value += 1;
  } catch (error) {
    fleetError.value = error as Error;
  }
}

function takeEarly(of: FleetState): void {
  if (early && of.loaded(early)) early = null;
}

on("gpu", (change) => {
  if (loading) {
    meanwhile.push(change);
    return;
  }
  if (!fleet.value) return;
  if (fleet.value.changed(change)) {
    takeEarly(fleet.value);
    told([change.gpu]);
  } else void loadFleet();
});
on("load", (change) => told(fleet.value?.reloaded(change) ?? []));
on("reset", () => {
  if (loading) again = true;
  else if (fleet.value) void loadFleet();
});
on("hello", () => void (fleetError.value && loadFleet()));

/** The same of all usable GPUs, weighed by their compute slices. */
export function usedOfAll(of: FleetState): { held: number; working: number | null } {
  let all = 0;
  let held = 0;
  let working: number | null = null;
  for (const gpu of of.gpus) {
    if (gpu.state > 1) continue;
    const slices = gpu.model.compute_slices;
    const used = usedOf(gpu);
    all += slices;
    held += used.held * slices;
    if (used.working !== null) working = (working ?? 0) + used.working * slices;
  }
  return { held: all ? held / all : 0, working: working !== null && all ? working / all : null };
}
