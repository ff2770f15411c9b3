// A field for a number that other things move, too: while somebody types in it, it shows what was typed.
import { useSignal } from "@preact/signals";

interface Props {
  readonly label: string;
  readonly value: number;
  /** Called with a number that is not negative, once it is entered: by Enter, by leaving the field, by its arrows. */
  readonly set: (value: number) => void;
}

export function NumberField({ label, value, set }: Props) {
  const typed = useSignal<string | null>(null); // and not entered yet
  return (
    <input
      type="number"
      aria-label={label}
      min={0}
      step="any"
      value={typed.value ?? String(value)}
      onInput={(event) => (typed.value = event.currentTarget.value)}
      onChange={(event) => {
        const given = event.currentTarget.valueAsNumber;
        typed.value = null;
        if (Number.isFinite(given) && given >= 0) set(given);
      }}
      onBlur={() => (typed.value = null)}
    />
  );
}
