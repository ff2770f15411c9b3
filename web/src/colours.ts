// Colours of what things do. All pairs stay apart also for eyes that do not tell red from green or blue from yellow;
// tests/dash/test_colours.py holds them to that.
import type * as api from "./model";

/** A colour on a light and on a dark ground. */
export type Pair = readonly [light: string, dark: string];

export const STATES: Readonly<Record<api.InstanceState, Pair>> = {
  serving: ["#1a6dc1", "#5fa1e5"],
  job: ["#e0861a", "#d98324"],
  free: ["#b5c5d5", "#4a5766"],
  starting: ["#87d1b7", "#1f8a7e"],
  draining: ["#73447d", "#f2b3b0"],
  changing: ["#f5e042", "#f8ef7f"],
  foreign: ["#7c8794", "#a8b2bd"],
  lost: ["#1b1f24", "#c8322d"],
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
  ["#bed8f6", "#134064"],
  ["#9aaec2", "#36618c"],
  ["#6399cd", "#4b86bd"],
  ["#2f6ca8", "#86b6e4"],
  ["#0d3562", "#dcebfb"],
];

/** From far below what was promised to all of it. */
export const PROMISE: readonly Pair[] = [
  ["#7a1f16", "#f09381"],
  ["#d0602a", "#b8431f"],
  ["#f0b35a", "#ffd362"],
  ["#a2bdda", "#3d5f82"],
  ["#2a6db3", "#5ea1e6"],
];

/** What is not known. */
export const NOTHING: Pair = ["#e9edf1", "#2a323c"];

/** The ground of all, and slices that are not cut. */
export const GROUND: Pair = ["#ffffff", "#12171d"];
export const BOARD: Pair = ["#f0f3f6", "#1c232c"];

/** Lines of charts, in the order in which they are drawn. */
export const LINES: readonly Pair[] = [
  ["#2768ae", "#5ea1e6"],
  ["#c9771a", "#e8ab4a"],
  ["#401a6b", "#e6dcff"],
  ["#299879", "#308974"],
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
