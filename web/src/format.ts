// Numbers, times and shares as words. What is unknown is a dash.
export const UNKNOWN = "–";

type Maybe = number | null | undefined;

const wholes = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const digits = (most: number) => new Intl.NumberFormat("en", { maximumSignificantDigits: most });
const three = digits(3);

/** 12,345; 1,234; 12.3; 0.123. */
export function number(value: Maybe): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN;
  return Math.abs(value) >= 1000 ? wholes.format(value) : three.format(value);
}

/** A share as per cent; close to all it keeps the digits that tell it from all. */
export function share(value: Maybe): string {
  if (value === null || value === undefined) return UNKNOWN;
  const percent = 100 * value;
  const fraction = percent > 0.05 && percent < 99.95 ? (percent > 99 || percent < 10 ? 1 : 0) : 0;
  const most = percent < 100 && percent >= 99.95 ? 2 : fraction;
  return `${percent.toFixed(most)} %`;
}

/** A share that is in time, as per cent: always with a digit or two that tell it from what is promised. */
export const inTime = (value: Maybe) =>
  value === null || value === undefined ? UNKNOWN : `${(100 * value).toFixed(value < 1 && value >= 0.9995 ? 2 : 1)} %`;

/** Milliseconds, or seconds where there are many. */
export function milliseconds(value: Maybe): string {
  if (value === null || value === undefined) return UNKNOWN;
  return value >= 10_000 ? `${three.format(value / 1000)} s` : `${three.format(value)} ms`;
}

const PREFIXES = ["", "k", "M", "G", "T", "P"];

/** 12.3 kW, 4.5 MJ. */
export function scaled(value: Maybe, unit: string): string {
  if (value === null || value === undefined) return UNKNOWN;
  let at = 0;
  let rest = value;
  while (Math.abs(rest) >= 1000 && at < PREFIXES.length - 1) {
    rest /= 1000;
    at += 1;
  }
  return `${three.format(rest)} ${PREFIXES[at] ?? ""}${unit}`;
}

/** Bytes as GPUs count them: GiB. */
export function bytes(value: Maybe): string {
  if (value === null || value === undefined) return UNKNOWN;
  return value >= 2 ** 30 ? `${three.format(value / 2 ** 30)} GiB` : `${three.format(value / 2 ** 20)} MiB`;
}

/** A duration: 12 s, 3 min, 1 h 20 min, 2 d 3 h. */
export function duration(seconds: Maybe): string {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  const whole = Math.round(seconds);
  if (whole < 120) return `${whole} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dated = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});

const SIMULATED = 1e8; // seconds: clocks that begin at 0 are of simulated clusters, and have no date

/** A time on the clock; with the date where it is not within half a day of `now`. Of a simulated clock, as 1:02:03. */
export function time(at: Maybe, now = Date.now() / 1000): string {
  if (at === null || at === undefined) return UNKNOWN;
  if (at < SIMULATED) return stopwatch(at);
  return (Math.abs(now - at) < 43_200 ? clock : dated).format(at * 1000);
}

export const simulated = (at: number | undefined) => at !== undefined && at < SIMULATED;

/** 1:02:03, or 2 d 1:02:03. */
function stopwatch(seconds: number): string {
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86_400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  const two = (part: number) => String(part).padStart(2, "0");
  return `${days ? `${days} d ` : ""}${hours}:${two(minutes)}:${two(whole % 60)}`;
}

const whole = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** A day and a time on its clock. */
export const date = (at: number) => whole.format(at * 1000);

export const plural = (count: number, one: string, many = `${one}s`) => `${wholes.format(count)} ${count === 1 ? one : many}`;
