// The monitoring page: what was measured over a range of time, and for operators the engine as it is now.
import { get } from "./lib/api.js";
import { $, $$, el } from "./lib/dom.js";
import { watchEngine } from "./lib/engine_panel.js";
import { watchFleet } from "./lib/fleet_panel.js";
import { fill, gettext, number, percent } from "./lib/i18n.js";
import { chartMarks, showLoads, showMarks, showRequests } from "./lib/incidents.js";
import { TimeChart } from "./lib/timechart.js";
import { amount, bytes, duration } from "./lib/units.js";

const root = $("[data-monitoring]");
const operator = root.dataset.operator === "true";
const form = $("[data-filters]");
const OFTEN = 10_000;
const SELDOM = 60_000;

const rate = (value) => fill(gettext("%(n)s/s"), { n: amount(value) });
const time = (value) => (value === null ? "–" : duration(value));
const percentiles = (kind, ...which) => which.map((n) => ({ key: `${kind}_p${n}`, name: fill(gettext("p%(n)s"), { n }) }));

// Each chart: its series, how a value is written, and which columns it reads.
const CHARTS = {
  requests: { series: [{ key: "requests_per_second", name: gettext("requests per second") }], text: rate },
  failed: { series: [{ key: "failed", name: gettext("failed requests") }, { key: "refused", name: gettext("refused") }], text: amount },
  latency: { series: percentiles("latency", 50, 95, 99), text: duration },
  ttft: { series: percentiles("ttft", 50, 95, 99), text: duration },
  gap: { series: percentiles("gap", 50, 95), text: duration },
  tokens: {
    series: [
      { key: "completion_tokens_per_second", name: gettext("completion tokens") },
      { key: "prompt_tokens_per_second", name: gettext("prompt tokens") },
      { key: "cached_tokens_per_second", name: gettext("cached prompt tokens") },
    ],
    text: rate,
  },
  queue: { series: [{ key: "waiting", name: gettext("waiting") }, { key: "running", name: gettext("running") }], text: amount, engine: true },
  step: { series: [{ key: "step_seconds", name: gettext("one step") }], text: duration, engine: true },
  batch: { series: [{ key: "batch", name: gettext("rows per step") }, { key: "residents", name: gettext("adapters in memory") }], text: amount, engine: true },
  kv: { series: [{ key: "kv_used", name: gettext("tokens in use") }, { key: "kv_tokens", name: gettext("capacity in tokens") }], text: amount, engine: true },
  memory: { series: [{ key: "rss", name: gettext("engine") }, { key: "rss_peak", name: gettext("peak") }, { key: "rss_limit", name: gettext("limit") }], text: bytes, engine: true },
  device: { series: [{ key: "device_used", name: gettext("used") }, { key: "device_peak", name: gettext("engine peak") }, { key: "device_total", name: gettext("total") }], text: bytes, engine: true },
};

const charts = Object.fromEntries($$("[data-chart]").map((figure) => [figure.dataset.chart, new TimeChart(figure, CHARTS[figure.dataset.chart])]));
let asked = 0;
let timer;

function query() {
  const wanted = new URLSearchParams({ range: form.elements.range.value });
  if (!operator) return wanted;
  const model = form.elements.model.value.trim();
  const user = form.elements.user.value.trim();
  if (model) wanted.set("model", model);
  else wanted.set("user", user || "all");
  return wanted;
}

function tiles(whole) {
  const put = (name, text) => ($(`[data-whole="${name}"]`).textContent = text);
  put("requests", number(whole.requests));
  put("rate", fill(gettext("%(n)s per second"), { n: amount(whole.requests_per_second) }));
  put("failed", number(whole.failed));
  const share = whole.requests ? percent(whole.failed / whole.requests, 1) : "";
  const refused = whole.refused ? fill(gettext("%(n)s refused"), { n: number(whole.refused) }) : "";
  put("share", [share, refused].filter(Boolean).join(" · "));
  for (const kind of ["latency", "ttft"]) {
    put(kind, time(whole[`${kind}_p50`]));
    put(`${kind}_p99`, fill(gettext("p95 %(a)s · p99 %(b)s"), { a: time(whole[`${kind}_p95`]), b: time(whole[`${kind}_p99`]) }));
  }
  put("gap", time(whole.gap_p50));
  put("gap_p95", fill(gettext("p95 %(a)s"), { a: time(whole.gap_p95) }));
  put("completion", number(whole.completion_tokens));
  put("prompt", fill(gettext("%(n)s prompt tokens, %(m)s of them cached"), { n: number(whole.prompt_tokens), m: number(whole.cached_tokens) }));
  badges($("[data-ends]"), whole.ends);
  badges($("[data-refusals]"), whole.refusals);
  $("[data-refusals]").parentElement.hidden = !whole.refused;
}

function badges(list, counts) {
  list.replaceChildren(...Object.entries(counts).map(([name, count]) => el("li", { className: "badge" }, `${name} · ${number(count)}`)));
}

/** The table of models or of accounts: a click asks for that one alone. */
function busiest(kind, rows) {
  const body = $(`[data-busiest="${kind}"] tbody`);
  body.replaceChildren(
    ...rows.map((row) => {
      const choose = el("button", { type: "button", className: "link", title: row.name, dataset: { testid: `only-${kind}` } }, row.label);
      choose.addEventListener("click", () => only(kind, row.name));
      const values = [number(row.requests), number(row.failed), time(row.latency_p50), time(row.latency_p95), time(row.ttft_p95), number(row.prompt_tokens), number(row.cached_tokens), number(row.completion_tokens)];
      return el("tr", {}, el("th", { scope: "row" }, choose), ...values.map((value) => el("td", { className: "is-end num" }, value)));
    }),
  );
  $(`[data-busiest="${kind}"]`).hidden = !rows.length;
}

function only(kind, name) {
  form.elements.model.value = kind === "model" ? name : "";
  form.elements.user.value = kind === "user" ? name : "";
  ask();
  form.scrollIntoView({ block: "start" });
}

function show(found) {
  const marks = chartMarks(found.marks);
  for (const [name, chart] of Object.entries(charts)) {
    const columns = CHARTS[name].engine ? found.engine : found.columns;
    chart.figure.hidden = columns === null || (name === "device" && !columns.device_total.some(Boolean));
    if (!chart.figure.hidden) chart.show({ ...found, columns, marks });
  }
  tiles(found.whole);
  if (!operator) return;
  busiest("model", found.models);
  busiest("user", found.users);
  showMarks($("[data-marks]"), found.marks);
  $("[data-loads]").hidden = !showLoads($("[data-loads] tbody"), found.marks);
  $("#models").replaceChildren(...found.models.map(({ name }) => el("option", { value: name })));
  $("#accounts").replaceChildren(...found.users.map(({ name }) => el("option", { value: name })));
}

/** Ask for everything of the chosen range; an answer that comes late is not shown over a newer one. */
async function ask() {
  clearTimeout(timer);
  const mine = ++asked;
  const wanted = query();
  history.replaceState(null, "", `?${wanted}`);
  const problem = $("[data-past-problem]");
  try {
    const [found, slow, failed] = await Promise.all([
      get(`/api/monitoring/history?${wanted}`),
      get(`/api/monitoring/requests?${wanted}&which=slow`),
      get(`/api/monitoring/requests?${wanted}&which=failed`),
    ]);
    if (mine !== asked) return;
    show(found);
    showRequests($("[data-slow]"), slow.results, operator, gettext("No requests in this period."));
    showRequests($("[data-failed]"), failed.results, operator, gettext("No failed requests in this period."));
    problem.hidden = true;
  } catch (error) {
    if (mine !== asked) return;
    problem.textContent = error.message;
    problem.hidden = false;
  }
  root.dataset.shown = String(mine);
  const soon = ["15m", "1h"].includes(form.elements.range.value);
  timer = setTimeout(again, soon ? OFTEN : SELDOM);
}

function again() {
  if (document.visibilityState === "visible") ask();
  else timer = setTimeout(again, OFTEN);
}

const before = new URLSearchParams(location.search);
for (const name of ["range", "model", "user"]) {
  const value = before.get(name);
  const field = form.elements[name];
  if (!value || !field || (name === "user" && value === "all")) continue;
  if (name !== "range" || [...field.options].some((option) => option.value === value)) field.value = value;
}
form.addEventListener("change", ask);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
if (operator) (watchFleet ?? watchEngine)();
ask();
document.documentElement.dataset.ready = "true";
