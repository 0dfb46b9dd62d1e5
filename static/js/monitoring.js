// The monitoring page: asks for the engine's state every two seconds while somebody looks.
import { busy } from "./lib/adapter.js";
import { get, post } from "./lib/api.js";
import { lineChart } from "./lib/chart.js";
import { $, el } from "./lib/dom.js";
import { fill, gettext, ngettext, number } from "./lib/i18n.js";
import { loadingSentence } from "./lib/progress.js";
import { failed, toast } from "./lib/toast.js";

const EVERY_MS = 2000;
const MOST_POINTS = 300;

const STATES = {
  ready: () => gettext("Ready"),
  loading: () => gettext("Loading"),
  starting: () => gettext("Starting"),
  unloading: () => gettext("Unloading"),
  empty: () => gettext("Empty"),
  stopped: () => gettext("Not started"),
};

const root = $("[data-monitoring]");
const loading = $("[data-load]"); // absent where there is no base model
const model = $("#load-model");
const pin = $("[data-pin]");
const unload = $("[data-unload]");
const points = [];
let last = null;
const began = performance.now();
let drawn = false;
let loaded = null; // slug of the loaded base

const put = (name, value) => ($(`[data-value="${name}"]`).textContent = value);

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${number(size, unit > 2 ? 2 : 0)} ${units[unit]}`;
}

function stateOf({ worker, engine }) {
  const state = worker.state === "ready" ? (engine?.state ?? "ready") : worker.state;
  return (STATES[state] ?? (() => state))();
}

function show(status) {
  const { worker, engine } = status;
  put("state", stateOf(status));
  put("where", engine?.loading ? loadingSentence(engine.loading) : [worker.device, worker.pid && fill(gettext("process %(pid)s"), { pid: worker.pid })].filter(Boolean).join(" · "));
  put("base", engine?.base ?? "–");
  put("precision", engine?.base ? [engine.precision, fill(gettext("%(n)s tokens of context"), { n: number(engine.context ?? 0) })].join(" · ") : "");
  put("running", number(engine?.running ?? 0));
  put("slots", engine?.slots ? fill(gettext("of %(n)s places"), { n: engine.slots }) : "");
  put("waiting", number(engine?.waiting ?? 0));
  put("in_flight", fill(gettext("%(n)s not answered yet"), { n: worker.in_flight ?? 0 }));
  put("restarts", number(worker.restarts ?? 0));
  put("tokens", fill(gettext("%(n)s since it started"), { n: number(engine?.tokens ?? 0) }));
  if (loading) showBase(engine);
  showSpeed(engine);
  showMemory(engine);
  showBank(engine?.adapters ?? []);
}

function showBase(engine) {
  unload.disabled = pin.disabled = !engine?.base;
  pin.setAttribute("aria-pressed", String(Boolean(engine?.pinned)));
  pin.classList.toggle("btn-primary", Boolean(engine?.pinned));
  loaded = [...model.options].find((option) => option.dataset.key === engine?.base_key)?.value ?? null;
}

function showSpeed(engine) {
  const now = performance.now();
  const tokens = engine?.tokens ?? 0;
  if (last && tokens >= last.tokens) {
    const speed = ((tokens - last.tokens) * 1000) / (now - last.at);
    put("speed", number(speed, 1));
    points.push([Math.round((now - began) / 1000), speed]);
    if (points.length > MOST_POINTS) points.shift();
  }
  last = { at: now, tokens };
  if (points.length < 2) return;
  const box = $("[data-speed-chart]");
  if (drawn) box.dispatchEvent(new Event("redraw"));
  else lineChart(box, [{ name: gettext("tokens per second"), points }], gettext("Tokens per second since this page was opened"));
  drawn = true;
}

function showMemory(engine) {
  const memory = engine?.memory;
  if (!memory) return $("[data-memory]").replaceChildren(el("div", {}, el("dt", {}, "–")));
  const whole = memory.device_total || memory.rss;
  const rows = [
    [gettext("Base model"), memory.base, whole],
    [gettext("Adapters"), memory.adapters, memory.adapter_budget],
    [gettext("Context of answers"), memory.kv, whole],
    memory.device_total ? [gettext("Graphics card"), memory.device_used, memory.device_total] : [gettext("Process"), memory.rss, 0],
  ];
  $("[data-memory]").replaceChildren(
    ...rows.map(([name, used, of]) => {
      const value = el("dd", { className: "num" }, of && of !== whole ? fill(gettext("%(used)s of %(all)s"), { used: bytes(used), all: bytes(of) }) : bytes(used));
      if (of) {
        const bar = el("progress", { className: "progress mt-1.5", max: of, value: Math.min(used, of) });
        bar.setAttribute("aria-label", name);
        value.append(bar);
      }
      return el("div", {}, el("dt", {}, name), value);
    }),
  );
}

function showBank(adapters) {
  $("[data-bank-count]").textContent = adapters.length;
  const chips = adapters.map((one) => {
    const detail = [`r ${one.rank}`, bytes(one.bytes)];
    if (one.in_use) detail.push(fill(ngettext("%(n)s answer", "%(n)s answers", one.in_use), { n: one.in_use }));
    return el("li", { className: `badge ${one.in_use ? "badge-active" : ""}`, title: one.digest }, `${one.name} · ${detail.join(" · ")}`);
  });
  $("[data-bank]").replaceChildren(...(chips.length ? chips : [el("li", { className: "text-sm text-ink-2" }, gettext("None: adapters are loaded when they are first asked."))]));
}

async function look() {
  const problem = $("[data-problem]");
  if (document.visibilityState === "visible") {
    try {
      show(await get(root.dataset.url));
      problem.hidden = true;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
  }
  setTimeout(look, EVERY_MS);
}

/** Do something with the engine, and show what it came to. */
async function operate(button, work) {
  busy(button, true);
  try {
    await work();
  } catch (error) {
    failed(error);
  }
  busy(button, false);
  await get(root.dataset.url).then(show, () => {}); // what is wrong, the next look says
}

loading?.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = model.selectedOptions[0].textContent;
  operate($('[type="submit"]', loading), async () => {
    await post("/api/inference/load", { model: model.value });
    toast("good", fill(gettext("%(name)s is loaded"), { name }));
  });
});

pin?.addEventListener("click", () => {
  const keep = pin.getAttribute("aria-pressed") !== "true";
  operate(pin, async () => {
    await post("/api/inference/load", { model: loaded ?? model.value, pin: keep });
    toast("good", keep ? gettext("The base model is kept loaded") : gettext("The base model may be unloaded again"));
  });
});

unload?.addEventListener("click", () =>
  operate(unload, async () => {
    const { freed_bytes: freed } = await post("/api/inference/unload");
    toast("good", gettext("The base model is unloaded"), fill(gettext("%(size)s freed"), { size: bytes(freed) }));
  }),
);

look();
document.documentElement.dataset.ready = "true";
