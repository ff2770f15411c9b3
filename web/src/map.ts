// The fleet's picture: where each GPU stands, and drawing it. From afar each slice is a few pixels, written into one
// image; near, it is a rectangle with words.
import type * as api from "./model";
import { BOARD, GROUND, NOTHING, PROMISE, STATES, STEPS, inkOn, pixel, type Pair } from "./colours";
import { profileOf, usersOf, type FleetState, type Gpu, type Instance } from "./fleet";

export type Paint = "state" | "busy" | "attainment" | "energy" | "plan";

interface Label {
  readonly text: string;
  readonly x: number;
  readonly y: number;
  readonly width: number;
  /** The first GPU of the node whose name this is; null for a rack. */
  readonly gpu: number | null;
}

export interface Layout {
  /** Of a GPU's tile, in CSS pixels at a zoom of 1. */
  readonly width: number;
  readonly height: number;
  /** Left and top of each GPU's tile. */
  readonly x: Float32Array;
  readonly y: Float32Array;
  readonly labels: readonly Label[];
  /** Height of a label's line. */
  readonly line: number;
  /** Of the whole picture. */
  readonly across: number;
  readonly down: number;
}

const WIDEST = 190; // CSS pixels of a tile
const RATIO = 0.86; // of a tile's height to its width

const EDGE = 8; // CSS pixels that stay free at the picture's edge

interface Block {
  readonly name: string;
  /** GPUs of each node. */
  readonly nodes: number[][];
}

/** What stands together: racks, or nodes alone where racks are not known. */
function blocksOf(nodes: readonly api.Node[], gpus: readonly Gpu[]): Block[] {
  const of: number[][] = nodes.map(() => []);
  gpus.forEach((gpu, i) => of[gpu.node]?.push(i));
  const racks = new Map<string, Block>();
  nodes.forEach((node, i) => {
    const key = node.rack ? `${node.zone}/${node.rack}` : `node ${i}`;
    const rack = racks.get(key) ?? { name: node.rack, nodes: [] };
    racks.set(key, rack);
    rack.nodes.push(of[i]!);
  });
  return [...racks.values()];
}

/** Packs all GPUs into the width, with tiles as large as the height allows; never narrower than `least`. */
export function layout(fleet: FleetState, width: number, height: number, least = 4): Layout {
  const blocks = blocksOf(fleet.nodes, fleet.gpus);
  let low = least;
  let high = WIDEST;
  for (let i = 0; i < 12 && high - low > 0.25; i += 1) {
    const middle = (low + high) / 2;
    const tried = pack(fleet, blocks, width, middle);
    if (tried.down <= height && tried.across <= width) low = middle;
    else high = middle;
  }
  return pack(fleet, blocks, width, low);
}

function pack(fleet: FleetState, blocks: readonly Block[], width: number, tile: number): Layout {
  const tall = Math.max(3, tile * RATIO);
  const gap = Math.max(1, Math.min(6, tile * 0.06));
  const line = Math.max(1, Math.min(16, tall * 0.2));
  const between = Math.max(2, Math.min(18, tile * 0.18));
  const x = new Float32Array(fleet.gpus.length);
  const y = new Float32Array(fleet.gpus.length);
  const labels: Label[] = [];
  const room = width - 2 * EDGE;
  const fits = Math.max(1, Math.floor((room + gap) / (tile + gap)));
  // Rows of a node are of one length as far as that goes: eight are four and four, not seven and one.
  const columns = (count: number) => Math.max(1, Math.ceil(count / Math.ceil(count / Math.min(8, fits))));
  let left = EDGE;
  let top = EDGE;
  let deepest = 0;
  let across = 0;
  for (const { name, nodes } of blocks) {
    const wide = Math.max(...nodes.map((node) => columns(node.length) * (tile + gap) - gap));
    if (left > EDGE && left + wide > width - EDGE) {
      left = EDGE;
      top += deepest + between;
      deepest = 0;
    }
    let down = top;
    if (name) {
      labels.push({ text: name, x: left, y: down, width: wide, gpu: null });
      down += line;
    }
    for (const node of nodes) {
      const per = columns(node.length);
      node.forEach((gpu, i) => {
        const row = Math.floor(i / per);
        x[gpu] = left + (i % per) * (tile + gap);
        y[gpu] = down + row * (tall + line) + line;
        if (i === 0) {
          const text = fleet.nodes[fleet.gpus[gpu]!.node]!.name;
          labels.push({ text, x: left, y: down, width: wide, gpu });
        }
      });
      down += Math.ceil(node.length / per) * (tall + line) + gap;
    }
    across = Math.max(across, left + wide + EDGE);
    left += wide + between;
    deepest = Math.max(deepest, down - top);
  }
  return { width: tile, height: tall, x, y, labels, line, across, down: top + deepest + EDGE };
}

/** What a picture shows of the fleet. */
export interface View {
  readonly paint: Paint;
  readonly dark: boolean;
  /** Whether a GPU or an instance matches what is looked for; others fade. */
  readonly lit: ((gpu: Gpu, instance: Instance) => boolean) | null;
  readonly selected: number | null;
}

const WORDS = 62; // CSS pixels of width from which a tile has words

export class FleetMap {
  layout: Layout;
  zoom = 1;
  /** Of the picture's left upper corner, in CSS pixels. */
  panX = 0;
  panY = 0;
  view: View = { paint: "state", dark: false, lit: null, selected: null };
  private readonly context: CanvasRenderingContext2D;
  private width = 0;
  private height = 0;
  private ratio = 1;
  private image: ImageData | null = null;
  private pixels = new Uint32Array(0);

  constructor(
    private readonly canvas: HTMLCanvasElement,
    public fleet: FleetState,
  ) {
    this.context = canvas.getContext("2d", { alpha: false })!;
    this.layout = layout(fleet, 100, 100);
  }

  /** Takes the fleet and the room there is, and shows all of it; the canvas is as high as that takes. */
  fit(fleet: FleetState, width: number, most: number, ratio: number): void {
    this.fleet = fleet;
    this.layout = layout(fleet, width, most);
    const height = Math.ceil(Math.min(most, Math.max(120, this.layout.down)));
    this.width = width;
    this.height = height;
    this.ratio = ratio;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.reset();
  }

  reset(): void {
    this.zoom = 1;
    this.panX = 0;
    this.panY = 0;
  }

  /** Zooms around a point of the canvas. */
  zoomAt(x: number, y: number, factor: number): void {
    const most = Math.max(1, 240 / this.layout.width);
    const next = Math.min(most, Math.max(1, this.zoom * factor));
    this.panX = x - ((x - this.panX) * next) / this.zoom;
    this.panY = y - ((y - this.panY) * next) / this.zoom;
    this.zoom = next;
    this.hold();
  }

  panBy(x: number, y: number): void {
    this.panX += x;
    this.panY += y;
    this.hold();
  }

  /** Moves the picture so that a GPU is within the canvas. */
  reveal(gpu: number): void {
    const x = this.layout.x[gpu]! * this.zoom;
    const y = this.layout.y[gpu]! * this.zoom;
    const w = this.layout.width * this.zoom;
    const h = this.layout.height * this.zoom;
    if (x + this.panX < 0) this.panX = -x;
    if (x + w + this.panX > this.width) this.panX = this.width - x - w;
    if (y + this.panY < this.layout.line * this.zoom) this.panY = this.layout.line * this.zoom - y;
    if (y + h + this.panY > this.height) this.panY = this.height - y - h;
    this.hold();
  }

  private hold(): void {
    const spareX = this.width - this.layout.across * this.zoom;
    const spareY = this.height - this.layout.down * this.zoom;
    this.panX = Math.min(0, Math.max(Math.min(0, spareX), this.panX));
    this.panY = Math.min(0, Math.max(Math.min(0, spareY), this.panY));
  }

  /** The GPU at a point of the canvas, or null. */
  at(x: number, y: number): number | null {
    const { layout } = this;
    const atX = (x - this.panX) / this.zoom;
    const atY = (y - this.panY) / this.zoom;
    for (let i = 0; i < layout.x.length; i += 1) {
      const dx = atX - layout.x[i]!;
      const dy = atY - layout.y[i]!;
      if (dx >= 0 && dx < layout.width && dy >= 0 && dy < layout.height) return i;
    }
    return null;
  }

  /** The instance of a GPU at a point of the canvas, or null. */
  instanceAt(at: number, y: number): Instance | null {
    const gpu = this.fleet.gpus[at]!;
    const within = ((y - this.panY) / this.zoom - this.layout.y[at]!) / this.layout.height;
    const slice = within * gpu.model.memory_slices;
    const covers = (one: Instance) => slice >= one.start && slice < one.start + profileOf(gpu, one).memory;
    return this.shown(gpu).find(covers) ?? null;
  }

  /** The next GPU in a direction from another one, or null. */
  next(from: number, dx: number, dy: number): number | null {
    const { x, y } = this.layout;
    let best: number | null = null;
    let least = Infinity;
    for (let i = 0; i < x.length; i += 1) {
      const along = (x[i]! - x[from]!) * dx + (y[i]! - y[from]!) * dy;
      const aside = Math.abs((x[i]! - x[from]!) * dy) + Math.abs((y[i]! - y[from]!) * dx);
      if (along < 1) continue;
      const cost = along + 3 * aside;
      if (cost < least) [best, least] = [i, cost];
    }
    return best;
  }

  /** Draws all, or only some GPUs where nothing else has changed. */
  draw(gpus: readonly number[] | null = null): void {
    if (this.layout.width * this.zoom >= WORDS) this.drawNear();
    else this.drawFar(gpus);
    this.drawSelected();
  }

  /** What is drawn of a GPU: what it is, or what it is to become. */
  private shown(gpu: Gpu): readonly Instance[] {
    return this.view.paint === "plan" ? (gpu.planned ?? gpu.instances) : gpu.instances;
  }

  private fades(gpu: Gpu, instance: Instance): boolean {
    if (this.view.paint === "plan" && !gpu.planned) return true;
    return this.view.lit !== null && !this.view.lit(gpu, instance);
  }

  private colour(gpu: Gpu, instance: Instance): Pair {
    const { paint } = this.view;
    if (paint === "state" || paint === "plan") return STATES[instance.state];
    const at = step(paint, gpu, instance);
    return at === null ? NOTHING : (paint === "attainment" ? PROMISE : STEPS)[at]!;
  }

  private drawFar(gpus: readonly number[] | null): void {
    const image = this.image;
    if (!image) return;
    const scheme = this.view.dark ? 1 : 0;
    const ground = pixel(GROUND[scheme]);
    const board = pixel(BOARD[scheme]);
    const { layout, pixels, zoom, ratio } = this;
    const wide = this.canvas.width;
    const tall = this.canvas.height;
    const scale = zoom * ratio;
    if (!gpus) pixels.fill(ground);
    const all = gpus ?? this.fleet.gpus.keys();
    for (const i of all) {
      const gpu = this.fleet.gpus[i]!;
      const left = Math.round((layout.x[i]! * zoom + this.panX) * ratio);
      const top = (layout.y[i]! * zoom + this.panY) * ratio;
      const right = Math.min(wide, left + Math.max(1, Math.round(layout.width * scale)));
      const height = layout.height * scale;
      if (right <= 0 || left >= wide || top + height <= 0 || top >= tall) continue;
      const from = Math.max(0, left);
      fill(pixels, wide, tall, from, right, Math.round(top), Math.round(top + height), board);
      for (const instance of this.shown(gpu)) {
        const { memory } = profileOf(gpu, instance);
        const upper = Math.round(top + (height * instance.start) / gpu.model.memory_slices);
        const lower = Math.round(top + (height * (instance.start + memory)) / gpu.model.memory_slices);
        let colour = pixel(this.colour(gpu, instance)[scheme]);
        if (this.fades(gpu, instance)) colour = mix(colour, ground);
        fill(pixels, wide, tall, from, right, upper, Math.max(upper + 1, lower - (lower - upper > 2 ? 1 : 0)), colour);
      }
    }
    this.context.putImageData(image, 0, 0);
    this.drawLabels(false);
  }

  private drawNear(): void {
    const { context, layout, zoom, ratio } = this;
    const scheme = this.view.dark ? 1 : 0;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = GROUND[scheme];
    context.fillRect(0, 0, this.width, this.height);
    const w = layout.width * zoom;
    const h = layout.height * zoom;
    this.fleet.gpus.forEach((gpu, i) => {
      const x = layout.x[i]! * zoom + this.panX;
      const y = layout.y[i]! * zoom + this.panY;
      if (x + w < 0 || x > this.width || y + h < 0 || y > this.height) return;
      this.drawGpu(gpu, x, y, w, h);
    });
    context.setTransform(1, 0, 0, 1, 0, 0);
    this.drawLabels(true);
  }

  private drawGpu(gpu: Gpu, x: number, y: number, w: number, h: number): void {
    const { context } = this;
    const scheme = this.view.dark ? 1 : 0;
    context.fillStyle = BOARD[scheme];
    context.fillRect(x, y, w, h);
    const slice = h / gpu.model.memory_slices;
    for (const instance of this.shown(gpu)) {
      const profile = profileOf(gpu, instance);
      const top = y + instance.start * slice;
      const tall = profile.memory * slice - 1;
      context.globalAlpha = this.fades(gpu, instance) ? 0.2 : 1;
      const colour = this.colour(gpu, instance)[scheme];
      context.fillStyle = colour;
      context.fillRect(x, top, w, tall);
      const size = Math.min(12, tall - 2);
      if (size >= 7.5) {
        context.font = `${size}px system-ui, sans-serif`;
        context.textBaseline = "middle";
        context.fillStyle = inkOn(colour);
        const name = usersOf(this.fleet, instance);
        const room = w - 8;
        const words = fitted(context, name ? name : profile.name, room);
        context.fillText(words, x + 4, top + Math.min(tall / 2, 10));
        const rest = room - context.measureText(words).width - 6;
        if (name && rest >= context.measureText(profile.name).width) {
          context.textAlign = "right";
          context.fillText(profile.name, x + w - 4, top + Math.min(tall / 2, 10));
          context.textAlign = "left";
        }
      }
    }
    context.globalAlpha = 1;
  }

  /** Names of racks and nodes; near, of GPUs in the place of nodes. */
  private drawLabels(near: boolean): void {
    const { context, layout, zoom, ratio } = this;
    const line = layout.line * zoom;
    const size = Math.min(13, line - 2);
    if (size < 7) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = `${size}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.fillStyle = this.view.dark ? "#b3bfcc" : "#4a5663";
    const write = (text: string, left: number, top: number, width: number) => {
      const x = left * zoom + this.panX;
      const y = top * zoom + this.panY;
      if (x > this.width || y > this.height || y + line < 0 || x + width * zoom < 0) return;
      context.fillText(fitted(context, text, width * zoom), x, y + line / 2);
    };
    for (const label of layout.labels) {
      if (!near || label.gpu === null) write(label.text, label.x, label.y, label.width);
    }
    if (near) {
      this.fleet.gpus.forEach((gpu, i) => write(gpu.id, layout.x[i]!, layout.y[i]! - layout.line, layout.width));
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  private drawSelected(): void {
    const { selected } = this.view;
    if (selected === null || selected >= this.layout.x.length) return;
    const { context, layout, zoom, ratio } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.lineWidth = 2;
    context.strokeStyle = this.view.dark ? "#ffffff" : "#000000";
    context.strokeRect(
      layout.x[selected]! * zoom + this.panX - 1,
      layout.y[selected]! * zoom + this.panY - 1,
      layout.width * zoom + 2,
      layout.height * zoom + 2,
    );
    context.setTransform(1, 0, 0, 1, 0, 0);
  }
}

const IN_TIME = [0.9, 0.95, 0.99, 0.999]; // from which the next step of PROMISE begins
const WATTS = 150; // of a step

/** The step of what an instance is painted by; null where that is not known. */
export function step(paint: "busy" | "attainment" | "energy", gpu: Gpu, instance: Instance | null): number | null {
  if (paint === "energy") return gpu.watts === null ? null : Math.min(4, Math.floor(gpu.watts / WATTS));
  const value = instance?.[paint] ?? null;
  if (value === null) return null;
  return paint === "busy" ? Math.min(4, Math.floor(value * 5)) : IN_TIME.filter((least) => value >= least).length;
}

function fill(
  pixels: Uint32Array,
  wide: number,
  tall: number,
  left: number,
  right: number,
  top: number,
  bottom: number,
  colour: number,
): void {
  const end = Math.min(tall, bottom);
  for (let row = Math.max(0, top); row < end; row += 1) {
    const last = row * wide + right;
    // A loop is quicker than fill() for the few pixels that a slice is wide.
    for (let at = row * wide + left; at < last; at += 1) pixels[at] = colour;
  }
}

/** Four parts of the ground, one of the colour. */
function mix(colour: number, ground: number): number {
  let mixed = 0xff000000;
  for (let shift = 0; shift < 24; shift += 8) {
    const part = ((colour >> shift) & 0xff) * 0.2 + ((ground >> shift) & 0xff) * 0.8;
    mixed |= Math.round(part) << shift;
  }
  return mixed >>> 0;
}

/** As much of a text as has room, with an ellipsis where that is not all. */
function fitted(context: CanvasRenderingContext2D, text: string, room: number): string {
  const width = context.measureText(text).width;
  if (width <= room) return text;
  const count = Math.floor((text.length * room) / width) - 1;
  return count > 0 ? `${text.slice(0, count)}…` : "";
}
