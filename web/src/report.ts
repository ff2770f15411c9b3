// GPUs of a report, as the API would tell them.
import type * as api from "./model";

/** A GPU with its instances; undefined where the report has none of that name. */
export function gpuOf(part: api.FleetPart, id: string): api.Gpu | undefined {
  const { fleet } = part;
  const at = fleet.gpus.id.indexOf(id);
  const model = fleet.models[fleet.gpus.model[at] ?? -1];
  if (!model) return undefined;
  const { gpu, profile, start, state, service, shared } = fleet.instances;
  const instances: api.InstanceDetail[] = [];
  let held = 0;
  gpu.forEach((of, i) => {
    if (of !== at) return;
    const size = model.profiles[profile[i]!]!;
    const point = part.points[part.point[i]!] ?? null;
    const services = shared[i] ?? (service[i]! < 0 ? [] : [service[i]!]);
    if (point) held += size.compute;
    instances.push({
      profile: size.name,
      start: start[i]!,
      state: fleet.states[state[i]!] ?? "free",
      mig_uuid: null,
      gpu_instance_id: null,
      services: services.map((one) => fleet.services[one] ?? ""),
      job: null,
      busy: null,
      throughput: point?.throughput ?? null,
      batch: point?.batch ?? null,
      latency_ms: point?.latency_ms ?? null,
      slowdown: null,
    });
  });
  return {
    id,
    uuid: "",
    model: model.name,
    node: fleet.nodes[fleet.gpus.node[at]!]?.name ?? "",
    state: "usable",
    instances,
    held: held / model.compute_slices,
    working: null,
    fragmentation: fragmentation(model, instances),
    watts: null,
  };
}

/** Share of the free memory slices that the largest instance that fits does not use. */
function fragmentation(model: api.GpuModel, instances: readonly api.InstanceDetail[]): number {
  const taken = new Array<boolean>(model.memory_slices).fill(false);
  let compute = model.compute_slices;
  for (const one of instances) {
    const size = model.profiles.find((profile) => profile.name === one.profile);
    if (!size) continue;
    compute -= size.compute;
    taken.fill(true, one.start, one.start + size.memory);
  }
  const free = taken.filter((slice) => !slice).length;
  const fits = model.profiles.filter(
    (profile) =>
      profile.compute <= compute &&
      profile.starts.some((start) => !taken.slice(start, start + profile.memory).includes(true)),
  );
  const largest = Math.max(0, ...fits.map((profile) => profile.memory));
  return free ? 1 - largest / free : 0;
}
