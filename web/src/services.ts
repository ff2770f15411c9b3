// All services, kept up to date by the stream.
import { signal } from "@preact/signals";
import { milliseconds, number, plural } from "./format";
import type * as api from "./model";
import { all, on } from "./state";

/** Over which attainment and refusals are counted. */
export const MINUTES = "5 minutes";

export const services = signal<ReadonlyMap<string, api.Service> | null>(null);
export const servicesError = signal<Error | null>(null);

/** What was told while all were loading. */
let meanwhile: readonly api.Service[] | null = null;

export async function loadServices(): Promise<void> {
  meanwhile = [];
  try {
    const found = await all("services", (page: api.ServicePage) => page.services);
    services.value = new Map([...found, ...meanwhile].map((service) => [service.name, service]));
    servicesError.value = null;
  } catch (error) {
    servicesError.value = error as Error;
  } finally {
    meanwhile = null;
  }
}

on("services", (changed) => {
  if (meanwhile) meanwhile = [...meanwhile, ...changed];
  else if (services.value) {
    services.value = new Map([...services.value, ...changed.map((service) => [service.name, service] as const)]);
  }
});
on("reset", () => void (services.value && loadServices()));
on("hello", () => void (servicesError.value && loadServices()));

/** Whether fewer queries are in time than the SLO promises. */
export const misses = (service: api.Service) =>
  service.attainment !== null && service.quantile !== null && service.attainment < service.quantile;

/** Whether less capacity is ready than must be kept. */
export const short = (service: api.Service) => service.capacity < service.floor * (1 - 1e-9);

export const refusals = (service: api.Service) => Object.values(service.refused).reduce((sum, count) => sum + count, 0);

/** Why a service misses its SLO or its floor, in sentences, and the page on which one does something about it. */
export interface Miss {
  readonly said: readonly string[];
  readonly page: "what-if" | "change" | null;
}

/** Null where a service misses nothing. */
export function missOf(service: api.Service): Miss | null {
  const { rate, required, capacity, floor, p99_ms: p99, slo_ms: slo } = service;
  const low = `${number(capacity)} items/s are ready, less than its floor of ${number(floor)}.`;
  if (!misses(service)) return short(service) ? { said: [low], page: "change" } : null;
  const said: string[] = [];
  const refused = refusals(service);
  if (refused > 0) {
    const reasons = Object.entries(service.refused).sort(([, a], [, b]) => b - a);
    const each = reasons.length > 1 ? reasons.map(([reason, count]) => `${reason} ${number(count)}`).join(", ") : reasons[0]![0];
    said.push(`${plural(refused, "query was", "queries were")} refused in the last ${MINUTES} (${each}).`);
  }
  if (rate !== null && rate > required) {
    said.push(`${number(rate)} items/s come, more than the ${number(required)} that were planned for: raise its rate.`);
    return { said, page: "what-if" };
  }
  if (short(service)) return { said: [...said, low], page: "change" };
  if (p99 !== null && slo !== null && p99 > slo) said.push(`Answers are late now: p99 is ${milliseconds(p99)}.`);
  else if (rate !== null && rate <= capacity) said.push(`What comes now is within its capacity, and in time: the share recovers within ${MINUTES}.`);
  return { said, page: null };
}
