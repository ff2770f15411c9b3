// All services, kept up to date by the stream.
import { signal } from "@preact/signals";
import type * as api from "./model";
import { all, on } from "./state";

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
  service.attainment !== null && service.attainment < (service.quantile ?? 0.99);

/** Whether less capacity is ready than must be kept. */
export const short = (service: api.Service) => service.capacity < service.floor * (1 - 1e-9);

export const refusals = (service: api.Service) => Object.values(service.refused).reduce((sum, count) => sum + count, 0);
