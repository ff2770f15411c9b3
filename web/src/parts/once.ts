// What is sent once, however often it is asked for: two quick Enters submit one job.
import { useSignal } from "@preact/signals";

export interface Once {
  readonly busy: boolean;
  readonly error: Error | null;
  /** Does something that may fail, unless something is under way. */
  readonly run: (what: () => Promise<unknown>) => Promise<void>;
}

export function useOnce(): Once {
  const busy = useSignal(false);
  const error = useSignal<Error | null>(null);
  const run = async (what: () => Promise<unknown>) => {
    if (busy.peek()) return; // a button is drawn as disabled only after the next key was pressed
    busy.value = true;
    error.value = null;
    try {
      await what();
    } catch (caught) {
      error.value = caught as Error;
    }
    busy.value = false;
  };
  return { busy: busy.value, error: error.value, run };
}
