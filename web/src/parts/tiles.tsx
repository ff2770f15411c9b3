// Figures with their words, and small parts that pages share.
import { useSignal, type Signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import type * as api from "../model";
import { STATE_WORDS } from "../colours";
import { Refusal } from "../source";
import { useWidth } from "./rows";

interface TileProps {
  readonly label: string;
  readonly value: ComponentChildren;
  /** What the figure is of, or what it is compared with. */
  readonly note?: ComponentChildren;
  /** Where something is wrong. */
  readonly bad?: boolean;
}

const LEAST = 132; // CSS pixels of a tile's width
const BETWEEN = 10;

/** A list of figures, in rows of equal length as far as that goes: eight are four and four, not seven and one. */
export function Tiles({ children }: { children: ComponentChildren }) {
  const list = useRef<HTMLDListElement>(null);
  const width = useWidth(list);
  const count = useSignal(1);
  useLayoutEffect(() => void (count.value = list.current!.children.length));
  const fit = Math.max(1, Math.floor((width + BETWEEN) / (LEAST + BETWEEN)));
  const columns = Math.ceil(count.value / Math.ceil(count.value / fit)) || 1;
  return (
    <dl class="tiles" ref={list} style={{ gridTemplateColumns: `repeat(${columns}, minmax(0, 260px))` }}>
      {children}
    </dl>
  );
}

const LONG = 11; // letters from which a figure is written smaller

export const Tile = ({ label, value, note, bad }: TileProps) => (
  <div class={bad ? "tile bad" : "tile"}>
    <dt>{label}</dt>
    <dd class={typeof value === "string" && value.length > LONG ? "figure long" : "figure"}>{value}</dd>
    {note !== undefined && <dd class="note">{note}</dd>}
  </div>
);

/** A state: its colour and its word. */
export const State = ({ state }: { state: api.InstanceState }) => (
  <span class="state">
    <i class="swatch" style={{ background: `var(--${state})` }} aria-hidden="true" />
    {STATE_WORDS[state]}
  </span>
);

/** A share as a bar, with its words beside it; the words alone where it is not known. */
export const Bar = ({ share, children }: { share: number | null; children: ComponentChildren }) =>
  share === null ? (
    <>{children}</>
  ) : (
  <span class="bar">
    <i aria-hidden="true">
      <b style={{ width: `${Math.round(100 * Math.min(1, share))}%` }} />
    </i>
    {children}
  </span>
);

/** An error: what, where, how to mend it. */
export function Trouble({ error }: { error: Error }) {
  const fault = error instanceof Refusal ? error.fault : { error: error.message, where: null, hint: null };
  return (
    <div class="trouble" role="alert">
      <p>
        {fault.error}
        {fault.where && <> ({fault.where})</>}
      </p>
      {fault.hint && <p>Hint: {fault.hint}</p>}
    </div>
  );
}

/** What a document shows: itself, why it is not there, or that it is coming. */
export function Loaded<T>({
  of,
  children,
}: {
  of: { readonly data: { readonly value: T | null }; readonly error: { readonly value: Error | null } };
  children: (data: T) => ComponentChildren;
}) {
  const data = of.data.value;
  const error = of.error.value;
  return (
    <>
      {error && <Trouble error={error} />}
      {data === null ? !error && <p class="empty">Loading …</p> : children(data)}
    </>
  );
}

interface ChoiceProps<Value extends string> {
  readonly legend: string;
  /** Of the radio buttons; no other choice on the page has it. */
  readonly name: string;
  readonly value: Signal<Value>;
  readonly of: readonly (readonly [Value, string])[];
}

/** One of a few: radio buttons that stand side by side. */
export const Choice = <Value extends string>({ legend, name, value, of }: ChoiceProps<Value>) => (
  <fieldset class="choice">
    <legend>{legend}</legend>
    {of.map(([one, word]) => (
      <label key={one}>
        <input type="radio" name={name} checked={value.value === one} onChange={() => (value.value = one)} />
        <span>{word}</span>
      </label>
    ))}
  </fieldset>
);

interface WorkloadChoiceProps {
  readonly of: string;
  readonly among: readonly string[];
  readonly choose: (name: string) => void;
}

/** Which of several workloads a page is about; nothing where there is one. */
export const WorkloadChoice = ({ of, among, choose }: WorkloadChoiceProps) =>
  among.length < 2 ? null : (
    <div class="controls">
      <label>
        Workload{" "}
        <select value={of} onChange={(event) => choose(event.currentTarget.value)}>
          {among.map((name) => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </select>
      </label>
    </div>
  );
