// A report: what a command or the library found, saved in one file. Its sections sort, filter and jump.
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import type * as api from "../model";
import { useSignal } from "@preact/signals";
import { date, number } from "../format";
import { documentOf, filter, link, route } from "../state";
import { Groups } from "../parts/groups";
import { Key, Steps, type Look } from "../parts/steps";
import { Table, type Column } from "../parts/table";
import { Bar, Loaded, Tile, Tiles } from "../parts/tiles";
import { TransitionView } from "../parts/timeline";
import { Scrolled, useWidth } from "../parts/rows";

export function ReportPage() {
  return <Loaded of={documentOf<api.Report>("report")}>{(report) => <Whole report={report} />}</Loaded>;
}

const FEW = 40; // rows of a table; more of them scroll in a box of their own

const idOf = (at: number) => `section-${at + 1}`;

function Whole({ report }: { report: api.Report }) {
  const wanted = route.value.rest;
  const service = route.value.page === "services" ? wanted : "";
  useLayoutEffect(() => {
    if (service) filter.value = service;
    if (service || !wanted) return;
    // In the next frame all above it has its height.
    const asked = requestAnimationFrame(() => document.getElementById(wanted)?.scrollIntoView());
    return () => cancelAnimationFrame(asked);
  }, [wanted, service]);
  const said = [report.workload, report.made === null ? null : date(report.made), `Partita ${report.version}`];
  return (
    <article class="report">
      <h1>
        {report.headline}
        {report.verdict && <span class={report.good ? "good" : "open"}>{report.verdict}</span>}
      </h1>
      <p class="said">{said.filter(Boolean).join(" · ")}</p>
      {report.figures.length > 0 && (
        <Tiles>
          {report.figures.map((figure) => (
            <Tile key={figure.name} label={figure.name} value={figure.text} />
          ))}
        </Tiles>
      )}
      {report.notes.map((note) => (
        <p key={note}>{note}</p>
      ))}
      {report.sections.length > 1 && (
        <nav class="contents" aria-label="Sections">
          {report.sections.map((section, i) => (
            <a key={i} href={link("report", idOf(i))} onClick={() => document.getElementById(idOf(i))?.scrollIntoView()}>
              {section.title}
            </a>
          ))}
        </nav>
      )}
      {report.sections.map((section, i) => (
        <section key={i} id={idOf(i)} aria-labelledby={`${idOf(i)}-title`}>
          <h2 id={`${idOf(i)}-title`}>{section.title}</h2>
          {section.notes.map((note) => (
            <p key={note} class="note">
              {note}
            </p>
          ))}
          <Drawing section={section} />
        </section>
      ))}
      {report.footer && <footer>{report.footer}</footer>}
    </article>
  );
}

function Drawing({ section }: { section: api.Section }) {
  return (
    <>
      {section.table && <ReportTable table={section.table} label={section.title} />}
      {section.bars.length > 0 && <Bars bars={section.bars} />}
      {section.chart && <OverTime chart={section.chart} label={section.title} />}
      {section.histogram && <Counts of={section.histogram} label={section.title} />}
      {section.transition && (
        <TransitionView
          detail={section.transition.detail}
          inUse={section.transition.in_use}
          left={section.transition.left}
          label={section.title}
        />
      )}
      {section.gpus && <Groups part={section.gpus} label={section.title} />}
    </>
  );
}

/** A value as its column writes it. */
function written(column: api.Column, row: number): string {
  const value = column.values[row] ?? null;
  if (value === null) return column.none;
  if (typeof value === "string") return value;
  const about = column.estimated.includes(row) ? "≈" : "";
  if (column.kind === "number") {
    return about + new Intl.NumberFormat("en", { maximumSignificantDigits: column.digits }).format(value);
  }
  const sign = column.kind === "change" && value > 0 ? "+" : "";
  return `${about}${sign}${(100 * value).toFixed(column.digits).replace(/^-(?=[0.]*$)/, "")} %`;
}

/** A service's name, which the filter takes. */
const Service = ({ name }: { name: string }) => (
  <button type="button" class="plain" aria-pressed={filter.value === name} onClick={() => (filter.value = filter.value === name ? "" : name)}>
    {name}
  </button>
);

function ReportTable({ table, label }: { table: api.Table; label: string }) {
  const rows = useMemo(() => (table.columns[0]?.values ?? []).map((_, row) => row), [table]);
  const columns = useMemo(
    () =>
      table.columns.map((column): Column<number> => {
        const words = column.kind === "text" || column.kind === "service";
        return {
          title: column.name,
          value: (row) => column.values[row] ?? (words ? column.none : null),
          number: !words,
          show: (row) => {
            const value = column.values[row] ?? null;
            if (column.kind === "service" && typeof value === "string") return <Service name={value} />;
            const text = written(column, row);
            return column.kind === "bar" && typeof value === "number" ? <Bar share={value}>{text}</Bar> : text;
          },
        };
      }),
    [table],
  );
  return (
    <>
      <Scrolled label={label} when={rows.length > FEW}>
        <Table label={label} rows={rows} columns={columns} name={String} />
      </Scrolled>
      {table.left > 0 && <p class="count">{number(table.left)} more rows are not listed here, the JSON file has all.</p>}
    </>
  );
}

function Bars({ bars }: { bars: readonly api.Bar[] }) {
  const most = Math.max(...bars.map((bar) => bar.value), 1e-9);
  return (
    <ul class="bars">
      {bars.map((bar, i) => (
        <li key={bar.name} class={i === bars.length - 1 ? "last" : ""}>
          <span>{bar.name}</span>
          <span class="track" aria-hidden="true">
            <i style={{ width: `${(100 * bar.value) / most}%` }} />
          </span>
          <b>{number(bar.value)}</b>
        </li>
      ))}
    </ul>
  );
}

function OverTime({ chart, label }: { chart: api.Chart; label: string }) {
  const { ends, begins } = chart;
  const starts = ends.map((_, i) => (i === 0 ? 0 : ends[i - 1]!));
  const period = useSignal<number | null>(null);
  const at = period.value;
  const lines = chart.lines.map((line) => ({
    name: line.name,
    look: line.look as Look,
    points: line.values.map((value, i) => [starts[i]!, value] as const),
  }));
  return (
    <div class="over-time">
      <Key lines={lines} />
      <Steps
        label={`${label}: ${chart.unit}`}
        lines={lines}
        until={ends.at(-1) ?? 1}
        height={260}
        ticks={starts.map((start, i) => ({ at: start, text: begins[i]! }))}
        say={number}
        cursor={at === null ? null : (starts[at]! + ends[at]!) / 2}
      />
      <div class="moment">
        <label>
          Period{" "}
          <input
            type="range"
            min={0}
            max={ends.length - 1}
            step={1}
            value={at ?? 0}
            onInput={(event) => (period.value = Number(event.currentTarget.value))}
          />
        </label>
        <output>
          {at === null
            ? "move it to read a period"
            : `${begins[at]!}: ${chart.lines.map((line) => `${line.name} ${number(line.values[at] ?? null)}`).join(", ")}`}
        </output>
      </div>
    </div>
  );
}

/** The next larger number of which the half is round, too. */
function round(value: number): number {
  const step = Math.max(2, 10 ** Math.floor(Math.log10(value)) / 2);
  return Math.ceil(value / step) * step;
}

function Counts({ of, label }: { of: api.Histogram; label: string }) {
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const height = 220;
  const left = 56;
  const wide = Math.max(1, width - left - 8);
  const tall = height - 24;
  const top = round(Math.max(1, ...of.counts));
  const x = (value: number) => left + (wide * value) / of.most;
  const y = (value: number) => 8 + (tall - 8) * (1 - value / top);
  const each = wide / of.counts.length;
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => share * of.most);
  const all = of.counts.reduce((sum, count) => sum + count, 0);
  return (
    <div class="over-time">
      <Key lines={[{ name: of.mark_name, look: "dashes" }]} />
      <div ref={box} class="steps" style={{ height: `${height}px` }}>
        {width > 0 && (
          <svg width={width} height={height} role="img" aria-label={`${label}: ${number(all)} values from 0 to ${number(of.most)} ${of.unit}; ${of.mark_name}`}>
            {[0.5, 1].map((share) => (
              <g key={share}>
                <path class="rule" d={`M${left} ${y(share * top)}h${wide}`} />
                <text x={left - 4} y={y(share * top) + 4} text-anchor="end">
                  {number(Math.round(share * top))}
                </text>
              </g>
            ))}
            {of.counts.map((count, i) =>
              count > 0 ? (
                <rect key={i} class="count" x={left + i * each} y={y(count)} width={Math.max(1, each - 1)} height={tall - y(count)} />
              ) : null,
            )}
            <path class="rule" d={`M${left} ${tall}h${wide}`} />
            {marks.map((mark, i) => (
              <text key={mark} x={x(mark)} y={height - 6} text-anchor={i === marks.length - 1 ? "end" : "middle"}>
                {number(mark)} {of.unit}
              </text>
            ))}
            <path class="edge dashes mark" d={`M${x(of.mark)} 4V${tall}`} />
          </svg>
        )}
      </div>
    </div>
  );
}
