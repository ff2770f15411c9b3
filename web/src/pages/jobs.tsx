// Jobs: why each waits and what to do, when it is predicted to start, its attempts, and its log as it comes.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { bytes, duration, number, time } from "../format";
import type * as api from "../model";
import { More, usePaged } from "../parts/paged";
import { useOnce } from "../parts/once";
import { Table, type Column } from "../parts/table";
import { Loaded, Tile, Tiles, Trouble } from "../parts/tiles";
import { Refusal } from "../source";
import { documentOf, filter, has, link, mayWrite, on, route, source, useDocument } from "../state";

const STATES = ["running", "waiting", "starting", "stopping", "done", "failed", "cancelled"];
const PAGE = 200;
const SECOND = 1000;

export function JobsPage() {
  const { rest } = route.value;
  return rest ? <OneJob id={rest} key={rest} /> : <AllJobs />;
}

const COLUMNS: readonly Column<api.Job>[] = [
  { title: "Job", value: (one) => one.id, show: (one) => <a href={link("jobs", one.id)}>{one.id}</a> },
  { title: "State", value: (one) => one.state },
  { title: "User", value: (one) => one.user },
  { title: "Why, and what to do", value: (one) => [one.reason, one.advice].filter(Boolean).join("; ") || null, wide: true },
  { title: "Predicted start", value: (one) => one.predicted_start, show: (one) => time(one.predicted_start) },
  { title: "Submitted", value: (one) => one.submitted, show: (one) => time(one.submitted) },
  { title: "GPU", value: (one) => one.gpu, show: (one) => one.gpu && <a href={link("gpu", one.gpu)}>{`${one.gpu} ${one.placement ?? ""}`}</a> },
  { title: "Memory", value: (one) => one.memory_bytes?.[0] ?? null, show: (one) => expected(one.memory_bytes), number: true, hint: "Least and most that it is expected to need" },
  { title: "Command", value: (one) => one.name || one.command || null },
];

function expected(memory: api.Job["memory_bytes"]): string {
  if (!memory) return "–";
  const [least, most] = memory;
  if (least === 0 && most !== null) return `at most ${bytes(most)}`;
  return most === null ? `≥ ${bytes(least)}` : least === most ? bytes(least) : `${bytes(least)} to ${bytes(most)}`;
}

function AllJobs() {
  const state = useSignal("");
  const counts = useSignal<Readonly<Record<string, number>>>({});
  const taken = (page: api.JobPage) => {
    counts.value = page.counts;
    return page.jobs;
  };
  const wanted = state.value;
  const jobs = usePaged(`jobs?limit=${PAGE}${wanted && `&state=${wanted}`}`, taken, (one) => one.id, ({ rows, load, change }) => {
    let timer = 0;
    const later = () => {
      timer = 0;
      if ((rows.peek()?.length ?? 0) <= PAGE) void load();
    };
    return [
      on("job", (job) => {
        const fits = !wanted || job.state === wanted;
        change((all) => {
          const rest = all.map((one) => (one.id === job.id ? job : one)).filter((one) => one.id !== job.id || fits);
          return !fits || all.some((one) => one.id === job.id) ? rest : [job, ...rest];
        });
        timer ||= setTimeout(later, 2 * SECOND);
      }),
      () => clearTimeout(timer),
    ];
  });
  return (
    <>
      <h1>Jobs</h1>
      {mayWrite.value && has("submit") && <Submit />}
      <div class="controls">
        <label>
          State{" "}
          <select value={state.value} onChange={(event) => (state.value = event.currentTarget.value)}>
            <option value="">all</option>
            {STATES.map((name) => (
              <option key={name} value={name}>
                {name in counts.value ? `${name} (${number(counts.value[name])})` : name}
              </option>
            ))}
          </select>
        </label>
      </div>
      <Loaded of={{ data: jobs.rows, error: jobs.error }}>
        {(rows) => <Table label="Jobs" rows={rows} columns={COLUMNS} name={(one) => one.id} empty={
              wanted ? (
                `No job is ${wanted} now.`
              ) : (
                <>
                  No job was submitted yet. Submit one: <code>partita submit -- python train.py</code>; on Kubernetes, a Job with the queue's label.
                </>
              )
            } />}
      </Loaded>
      <p>
        <More of={jobs}>More</More>
        {jobs.next.value && filter.value && <small> The filter looks at the jobs that are loaded.</small>}
      </p>
    </>
  );
}

function OneJob({ id }: { id: string }) {
  const path = `jobs/${encodeURIComponent(id)}`;
  const job = useDocument<api.Job>(path, ["job"]);
  return (
    <>
      <div class="heading">
        <h1>{id}</h1>
        <p>
          <a href={link("jobs")}>All jobs</a>
        </p>
      </div>
      <Loaded of={job}>{(one) => <Shown job={one} path={path} />}</Loaded>
    </>
  );
}

const ATTEMPTS: readonly Column<api.JobAttempt>[] = [
  { title: "Attempt", value: (one) => one.number, number: true },
  { title: "Slice", value: (one) => `${one.gpu} ${one.placement}`, show: (one) => <a href={link("gpu", one.gpu)}>{`${one.gpu} ${one.placement}`}</a> },
  { title: "Memory of it", value: (one) => one.limit_bytes, show: (one) => bytes(one.limit_bytes), number: true },
  { title: "Peak", value: (one) => one.peak_bytes, show: (one) => bytes(one.peak_bytes), number: true },
  { title: "Began", value: (one) => one.began, show: (one) => time(one.began) },
  { title: "Took", value: (one) => (one.began === null || one.ended === null ? null : one.ended - one.began), show: (one) => duration(one.began === null || one.ended === null ? null : one.ended - one.began), number: true },
  { title: "Verdict", value: (one) => one.verdict },
  { title: "Code", value: (one) => one.code, number: true },
  { title: "Why", value: (one) => one.why, wide: true },
];

function Shown({ job, path }: { job: api.Job; path: string }) {
  const { busy, error, run } = useOnce();
  const over = ["done", "failed", "cancelled"].includes(job.state);
  const cancel = () =>
    run(async () => {
      await source.send("POST", `${path}/cancel`, undefined, `${job.id}.${job.state}`);
      await documentOf(path).load();
    });
  return (
    <>
      {job.command && (
        <p>
          {job.name && `${job.name}: `}
          <code>{job.command}</code>
        </p>
      )}
      <Tiles>
        <Tile label="State" value={job.state} note={job.reason ?? ""} />
        <Tile label="Predicted start" value={time(job.predicted_start)} note={job.predicted_start === null ? "of jobs that wait" : ""} />
        <Tile label="Where" value={job.gpu ?? "–"} note={job.placement ?? "not placed"} />
        <Tile label="Memory" value={expected(job.memory_bytes)} note="expected" />
        <Tile label="Submitted" value={time(job.submitted)} note={job.user} />
      </Tiles>
      {job.advice && <p class="advice">What to do: {job.advice}</p>}
      {mayWrite.value && has("submit") && !over && (
        <p>
          <button type="button" disabled={busy} onClick={() => void cancel()}>
            Cancel the job
          </button>
        </p>
      )}
      {error && <Trouble error={error} />}
      <section aria-label="Attempts">
        <h2>Attempts</h2>
        <Table label="Attempts" rows={job.attempts} columns={ATTEMPTS} name={(one) => String(one.number)} filtered={false} empty="It has not started yet; above stands why, and what to do." />
      </section>
      <Log path={path} />
    </>
  );
}

const KEPT = 400_000; // characters of a log that stay on the page

/** The log, as it comes; the page stays at its end while it is looked at there. */
function Log({ path }: { path: string }) {
  const text = useSignal("");
  const error = useSignal<Error | null>(null);
  const box = useRef<HTMLPreElement>(null);
  useLayoutEffect(() => {
    let ended = false;
    let timer = 0;
    let after = 0;
    let attempt = 0;
    const more = async () => {
      try {
        const log = (await source.get(`${path}/log?after=${after}`)) as api.JobLog;
        if (log.attempt !== attempt && after > 0) {
          after = 0;
          text.value = "";
          again(0);
          return;
        }
        attempt = log.attempt;
        const element = box.current;
        const atEnd = !element || element.scrollHeight - element.scrollTop - element.clientHeight < 40;
        const wrote = log.next > after;
        after = log.next;
        if (log.text) text.value = (text.peek() + log.text).slice(-KEPT);
        error.value = null;
        if (atEnd) requestAnimationFrame(() => box.current?.scrollTo(0, box.current.scrollHeight));
        if (log.over && !wrote) return;
        again(wrote ? SECOND / 2 : 2 * SECOND);
      } catch (caught) {
        error.value = caught as Error;
        if (!(caught instanceof Refusal && caught.status === 404)) again(2 * SECOND);
      }
    };
    const again = (wait: number) => {
      if (!ended) timer = setTimeout(() => void more(), wait);
    };
    void more();
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, [path]);
  return (
    <section aria-label="Log">
      <h2>Log</h2>
      {error.value && <Trouble error={error.value} />}
      <pre ref={box} class="log" tabIndex={0} aria-label="Log">
        {text.value || "Nothing was written yet."}
      </pre>
    </section>
  );
}

function Submit() {
  const { busy, error, run } = useOnce();
  const begun = useSignal<api.Accepted | null>(null);
  const submit = async (form: HTMLFormElement) => {
    const given = new FormData(form);
    const said = (name: string) => (given.get(name) as string).trim();
    const memory = said("memory");
    begun.value = (await source.send("POST", "jobs", {
      command: words(said("command")),
      memory_bytes: memory ? Number(memory) * 2 ** 30 : null,
      directory: said("directory") || null,
      name: said("name"),
    })) as api.Accepted;
    // Whoever has typed the next one meanwhile keeps it.
    if ([...new FormData(form)].every(([name, value]) => value === given.get(name))) form.reset();
  };
  return (
    <details class="submit">
      <summary>Submit a job</summary>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          const form = event.currentTarget;
          void run(() => submit(form));
        }}
      >
        <label>
          Command <input name="command" required placeholder="python train.py --epochs 3" />
        </label>
        <label>
          Memory, GiB <input name="memory" type="number" min="0.1" step="any" placeholder="forecast" />
        </label>
        <label>
          Name <input name="name" maxLength={64} />
        </label>
        <label>
          Folder <input name="directory" placeholder="your home" />
        </label>
        <button type="submit" disabled={busy}>
          Submit
        </button>
      </form>
      {begun.value && (
        <p role="status">
          <a href={link("jobs", begun.value.id)}>{begun.value.id}</a> {begun.value.text}
        </p>
      )}
      {error && <Trouble error={error} />}
    </details>
  );
}

/** A command line's words, as a shell would part them; quotes join. */
export function words(line: string): string[] {
  const found = line.matchAll(/(?:[^\s"']+|"(?:\\.|[^"\\])*"|'[^']*')+/g);
  return [...found].map(([word]) =>
    word.replace(/"((?:\\.|[^"\\])*)"|'([^']*)'/g, (_, double: string | undefined, single: string | undefined) =>
      double === undefined ? (single ?? "") : double.replace(/\\(["\\$`])/g, "$1"),
    ),
  );
}
