// Slow and failed requests, each with its facts; and what happened, as a list and as marks of the charts.
import { el } from "./dom.js";
import { fill, gettext, locale, number } from "./i18n.js";
import { duration } from "./units.js";

/** What took longest, as the reason why a request was slow. */
const CAUSES = {
  door: () => gettext("It took long to reach the engine"),
  start: () => gettext("The engine had to start"),
  base: () => gettext("The base model had to be loaded"),
  memory: () => gettext("Other adapters were using the memory"),
  adapter: () => gettext("The adapter had to be loaded"),
  queue: () => gettext("All slots were in use"),
  prompt: () => gettext("The prompt was long"),
  answer: () => gettext("The answer was long"),
};

const STAGES = {
  door: () => gettext("Before the engine"),
  start: () => gettext("Starting the engine"),
  base: () => gettext("Loading the base model"),
  memory: () => gettext("Waiting for memory"),
  adapter: () => gettext("Loading the adapter"),
  queue: () => gettext("Waiting for a slot"),
  prompt: () => gettext("Processing the prompt (prefill)"),
  answer: () => gettext("Generating the answer (decode)"),
};

const KINDS = {
  engine_started: [() => gettext("The engine started"), "plain"],
  engine_crashed: [() => gettext("The engine crashed"), "bad"],
  engine_stopped: [() => gettext("The engine was stopped"), "plain"],
  base_loaded: [() => gettext("Base model loaded"), "plain"],
  base_unloaded: [() => gettext("Base model unloaded"), "warn"],
  adapter_loaded: [() => gettext("Adapter loaded"), null],
  adapter_evicted: [() => gettext("Adapter unloaded"), "warn"],
  activated: [() => gettext("Activated"), "plain"],
  deactivated: [() => gettext("Deactivated"), "plain"],
  failed: [() => gettext("Adapter failed"), "warn"],
  forgotten: [() => gettext("Removed"), null],
};

const REASONS = {
  room: () => gettext("to free memory"),
  asked: () => gettext("on request"),
  idle: () => gettext("idle"),
  other_base: () => gettext("another one was requested"),
};

export const stamp = (at) =>
  new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false }).format(at * 1000);

/** What charts show of `marks`: the rest is in the list. */
export const chartMarks = (marks) => marks.map(({ at, kind }) => ({ at, tone: KINDS[kind]?.[1] ?? null })).filter(({ tone }) => tone);

export function showMarks(list, marks) {
  const items = marks.map(({ at, kind, name, seconds, reason }) => {
    const [word, tone] = KINDS[kind] ?? [() => kind, null];
    const detail = [seconds ? duration(seconds) : "", REASONS[reason]?.() ?? reason].filter(Boolean).join(" · ");
    return el(
      "li",
      { dataset: { kind } },
      el(
        "p",
        { className: "flex flex-wrap items-baseline gap-x-2" },
        el("span", { className: `font-medium ${tone === "bad" ? "text-bad" : ""}` }, word()),
        el("span", { className: "min-w-0 text-ink-2" }, [name, detail].filter(Boolean).join(" · ")),
        el("time", { className: "num ml-auto text-xs text-ink-3" }, stamp(at)),
      ),
    );
  });
  list.replaceChildren(...(items.length ? items : [el("li", { className: "text-ink-2" }, gettext("No events in this period."))]));
}

/** How long loads took: each kind's count, middle and longest. */
export function showLoads(body, marks) {
  const rows = ["engine_started", "base_loaded", "adapter_loaded"].flatMap((kind) => {
    const times = marks.filter((mark) => mark.kind === kind && mark.seconds > 0).map((mark) => mark.seconds).sort((a, b) => a - b);
    if (!times.length) return [];
    const middle = times[Math.floor((times.length - 1) / 2)];
    const cells = [number(times.length), duration(middle), duration(times.at(-1))].map((text) => el("td", { className: "is-end num" }, text));
    return [el("tr", {}, el("th", { scope: "row" }, KINDS[kind][0]()), ...cells)];
  });
  body.replaceChildren(...rows);
  return rows.length > 0;
}

function facts(row, people) {
  const stages = Object.entries(STAGES).filter(([name]) => row.stages[name] >= 0.0005).map(([name, word]) => [word(), duration(row.stages[name])]);
  const pairs = [
    ...stages,
    [gettext("Time to first token"), row.ttft === null ? "–" : duration(row.ttft)],
    [gettext("Total"), duration(row.total)],
    [gettext("Prompt"), fill(gettext("%(n)s tokens, %(m)s of them cached"), { n: number(row.prompt_tokens), m: number(row.cached_tokens) })],
    [gettext("Answer"), fill(gettext("%(n)s tokens"), { n: number(row.completion_tokens) })],
    [gettext("Finish reason"), [row.code || row.reason, row.detail].filter(Boolean).join(" · ")],
    [gettext("Content digest"), row.digest],
    [gettext("Request"), row.request_id || "–"],
  ];
  if (people) pairs.push([gettext("Account"), [row.user || gettext("deleted"), row.token].filter(Boolean).join(" · ")]);
  if (row.evicted_at) pairs.unshift([gettext("Adapter unloaded"), stamp(row.evicted_at)]);
  const texts = [[gettext("End of the prompt"), row.prompt], [gettext("Beginning of the answer"), row.answer]].filter(([, text]) => text);
  const entry = ([name, value], look) => el("div", {}, el("dt", {}, name), el("dd", { className: look }, value));
  return el("dl", { className: "fact-list" }, ...pairs.map((pair) => entry(pair, "break-all")), ...texts.map((pair) => entry(pair, "whitespace-pre-wrap")));
}

/** One entry for each request: what was asked, how long it took and why, and its facts when it is opened. */
export function showRequests(list, rows, people, nothing) {
  const open = new Set([...list.querySelectorAll("details[open]")].map((details) => details.dataset.id));
  const items = rows.map((row) => {
    const why = row.code ? row.message : (CAUSES[row.cause]?.() ?? row.cause);
    const details = el(
      "details",
      { className: "incident", dataset: { id: row.request_id, cause: row.code || row.cause } },
      el(
        "summary",
        {},
        el("span", { className: "num incident-time" }, duration(row.total)),
        el("span", { className: "min-w-0 flex-1" }, el("span", { className: "font-medium" }, row.model), " ", el("span", { className: "text-ink-2" }, why)),
        el("time", { className: "num text-xs text-ink-3" }, stamp(row.at)),
      ),
      facts(row, people),
    );
    details.open = open.has(row.request_id);
    return el("li", {}, details);
  });
  list.replaceChildren(...(items.length ? items : [el("li", { className: "p-4 text-sm text-ink-2" }, nothing)]));
}
