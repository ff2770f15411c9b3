// Colours of what things do. All pairs stay apart also for eyes that do not tell red from green or blue from yellow;
// tests/dash/test_colours.py holds them to that.
import type * as api from "./model";

/** A colour on a light and on a dark ground. */
export type Pair = readonly [light: string, dark: string];

export const STATES: Readonly<Record<api.InstanceState, Pair>> = {
  serving: ["#2a6db3", "#5ea1e6"],
  job: ["#e39b26", "#e8ab4a"],
  free: ["#d6dde5", "#3b4653"],
  starting: ["#8fd3c8", "#1f7a70"],
  draining: ["#9a7fd0", "#a58be0"],
  changing: ["#f2e05c", "#f4ec8e"],
  foreign: ["#7c8794", "#8d98a5"],
  lost: ["#1b1f24", "#d7342f"],
};

export const STATE_WORDS: Readonly<Record<api.InstanceState, string>> = {
  serving: "serving",
  job: "job",
  free: "free",
  starting: "starting",
  draining: "draining",
  changing: "being changed",
  foreign: "not Partita's",
  lost: "lost",
};

/** Little to much, in five steps: one hue, told apart by lightness. */
export const STEPS: readonly Pair[] = [
  ["#dfe8f1", "#223244"],
  ["#a9c6e2", "#315476"],
  ["#6b9fcf", "#477fb4"],
  ["#3273b0", "#7db0e2"],
  ["#123f70", "#cfe4fa"],
];

/** From far below what was promised to all of it. */
export const PROMISE: readonly Pair[] = [
  ["#7a1f16", "#ff8f7a"],
  ["#d0602a", "#e0783c"],
  ["#f0b35a", "#b98a3c"],
  ["#b5cbe2", "#3d5f82"],
  ["#2a6db3", "#5ea1e6"],
];

/** What is not known. */
export const NOTHING: Pair = ["#e9edf1", "#2a323c"];

/** Lines of charts, in the order in which they are drawn. */
export const LINES: readonly Pair[] = [
  ["#2a6db3", "#5ea1e6"],
  ["#c9771a", "#e8ab4a"],
  ["#6b4fb0", "#b49bf0"],
  ["#2d8577", "#5cc4b4"],
];

export const css = ([light, dark]: Pair) => `light-dark(${light}, ${dark})`;

/** The states' colours for style sheets: `--serving` and so on. */
export function define(): void {
  for (const [name, pair] of Object.entries(STATES)) {
    document.documentElement.style.setProperty(`--${name}`, css(pair));
  }
}

const pixels = new Map<string, number>();

/** A colour as a pixel of ImageData, little-endian. */
export function pixel(hex: string): number {
  let found = pixels.get(hex);
  if (found === undefined) {
    const value = Number.parseInt(hex.slice(1), 16);
    found = (0xff000000 | ((value & 0xff) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
    pixels.set(hex, found);
  }
  return found;
}

/** Black or white, whichever is easier to read on a colour. */
export function inkOn(hex: string): string {
  const channels = [1, 3, 5].map((at) => (Number.parseInt(hex.slice(at, at + 2), 16) / 255) ** 2.2);
  const light = 0.2126 * channels[0]! + 0.7152 * channels[1]! + 0.0722 * channels[2]!;
  return light > 0.22 ? "#10151a" : "#ffffff";
}
