// What stands around every page: name, navigation, filter, connection, light and dark, keys, and the way in.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { time } from "./format";
import { PAGES, type Page } from "./pages";
import { useOnce } from "./parts/once";
import { Trouble } from "./parts/tiles";
import { Refusal } from "./source";
import { connection, fault, filter, has, index, link, route, scheme, source, trouble, type Scheme } from "./state";

const here = (page: Page) => (page.part === null ? source.live : has(page.part));
const listed = () => PAGES.filter((page) => page.title !== null && here(page));
const current = () => PAGES.find((page) => page.path === route.value.page && here(page)) ?? listed()[0];

const CONNECTION = { live: "live", connecting: "connecting …", held: "no events", saved: "saved" } as const;

export function Shell() {
  const help = useSignal(false);
  const entering = useSignal(false);
  const opened = useSignal(false);
  const search = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (event.key === "Escape") {
        help.value = false;
        filter.value = "";
        search.current?.blur();
      }
      if ((event.target as Element).closest("input, select, textarea")) return;
      const page = listed()[Number(event.key) - 1];
      if (page) location.hash = link(page.path);
      else if (event.key === "/") search.current?.focus();
      else if (event.key === "?") help.value = !help.value;
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);

  const page = current();
  const known = index.value;
  const title = page?.title ?? route.value.rest;
  useLayoutEffect(() => {
    document.title = [title, known?.cluster, "Partita"].filter(Boolean).join(" · ");
  }, [title, known?.cluster]);

  const refused = trouble.value instanceof Refusal && trouble.value.status === 401;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.querySelector("main")?.focus())}>
        To the page
      </a>
      <header class={opened.value ? "opened" : ""}>
        <div class="name">
          <b>Partita</b>
          {known && <span>{[known.cluster, known.workload].filter(Boolean).join(" · ")}</span>}
        </div>
        <nav aria-label="Pages">
          {(known ? listed() : []).map((one) => (
            <a key={one.path} href={link(one.path)} aria-current={one === page ? "page" : undefined}>
              {one.title}
            </a>
          ))}
        </nav>
        <div class="tools">
          <input
            ref={search}
            type="search"
            placeholder="Filter  /"
            aria-label="Filter what the page shows"
            value={filter.value}
            onInput={(event) => (filter.value = event.currentTarget.value)}
          />
          <select
            aria-label="Colours"
            value={scheme.value}
            onChange={(event) => (scheme.value = event.currentTarget.value as Scheme)}
          >
            <option value="system">Auto</option>
            <option value="light">Light</option>
            <option value="dark">Dark</option>
          </select>
          <button type="button" class="more" aria-expanded={opened.value} aria-label="Colours, keys and more" onClick={() => (opened.value = !opened.value)}>
            ⋯
          </button>
          <button type="button" class="seldom" aria-expanded={help.value} aria-label="Keys" onClick={() => (help.value = !help.value)}>
            ?
          </button>
          {source.live && known?.role === "read" && (
            <button type="button" class="seldom" aria-expanded={entering.value} onClick={() => (entering.value = !entering.value)}>
              Sign in
            </button>
          )}
          {source.live && known && signedIn() && (
            <button type="button" class="seldom" onClick={() => void signOut()}>
              Sign out
            </button>
          )}
          <span class={`connection ${connection.value}`} role="status">
            {source.live ? CONNECTION[connection.value] : `as of ${time(known?.now)}`}
          </span>
        </div>
      </header>
      {help.value && <Keys />}
      <main id="main" tabIndex={-1}>
        {trouble.value && !refused && <Trouble error={trouble.value} />}
        {(refused || entering.value) && (
          <WayIn
            why={
              refused
                ? "This dashboard asks for a token. Whoever runs it has one for you."
                : "With a token that may write you pause and approve changes, and submit and cancel jobs."
            }
          />
        )}
        {connection.value === "held" && (
          <div class="trouble" role="alert">
            <p>
              The server answers, but its events do not come: something on the way holds them back. All is loaded anew every few
              seconds instead.
            </p>
            <p>Hint: a proxy must pass on api/v1/stream as it comes, without a buffer and without compression.</p>
          </div>
        )}
        {fault.value && (
          <div class="trouble" role="alert">
            <p>Not all can be seen now, and what is shown may be older: {fault.value.error}</p>
            {fault.value.hint && <p>Hint: {fault.value.hint}</p>}
          </div>
        )}
        {known && page && <page.show key={page.path} />}
        {known?.notes.length ? (
          <ul class="notes" aria-label="Notes">
            {known.notes.map((note) => (
              <li key={note}>{note}</li>
            ))}
          </ul>
        ) : null}
        {!known && !trouble.value && <p class="empty">Loading …</p>}
      </main>
    </>
  );
}

const Keys = () => (
  <section class="keys" aria-label="Keys">
    <dl>
      <div>
        <dt>1 … {listed().length}</dt>
        <dd>{listed().map((page) => page.title).join(", ")}</dd>
      </div>
      <div>
        <dt>/</dt>
        <dd>filter by name of a GPU, node, service or job</dd>
      </div>
      <div>
        <dt>Esc</dt>
        <dd>clear the filter</dd>
      </div>
      <div>
        <dt>arrows, + − 0, Enter</dt>
        <dd>in the fleet: walk, zoom, open a GPU</dd>
      </div>
      <div>
        <dt>?</dt>
        <dd>these keys</dd>
      </div>
    </dl>
  </section>
);

// Scripts do not see the cookie: whether there is one is remembered beside it.
const SIGNED_IN = `partita-signed-in ${location.pathname}`;

function signedIn(): boolean {
  try {
    return localStorage.getItem(SIGNED_IN) !== null;
  } catch {
    return false; // storage is off
  }
}

function remember(signed: boolean): void {
  try {
    if (signed) localStorage.setItem(SIGNED_IN, "yes");
    else localStorage.removeItem(SIGNED_IN);
  } catch {
    // Storage is off: there is no button to sign out, and the session ends by itself.
  }
}

async function signOut(): Promise<void> {
  try {
    await source.send("DELETE", "session");
    remember(false);
    location.reload();
  } catch (error) {
    trouble.value = error as Error;
  }
}

/** Asks for the token, and trades it for a cookie, with which the page is loaded anew. */
function WayIn({ why }: { why: string }) {
  const { busy, error, run } = useOnce();
  const enter = async (form: HTMLFormElement) => {
    await source.send("POST", "session", { token: new FormData(form).get("token") });
    remember(true);
    location.reload();
  };
  return (
    <form
      class="way-in"
      onSubmit={(event) => {
        event.preventDefault();
        const form = event.currentTarget;
        void run(() => enter(form));
      }}
    >
      <h1>Token</h1>
      <p>{why}</p>
      <label>
        Token <input name="token" type="password" autocomplete="current-password" required />
      </label>
      <button type="submit" disabled={busy}>
        Enter
      </button>
      {error && <Trouble error={error} />}
    </form>
  );
}
