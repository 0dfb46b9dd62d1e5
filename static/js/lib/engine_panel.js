// The engine as it is now: asks every two seconds while somebody looks, and does what an operator wants done.
import { busy } from "./adapter.js";
import { get, post } from "./api.js";
import { $, cutName, el } from "./dom.js";
import { fill, gettext, ngettext, number } from "./i18n.js";
import { pickers } from "./picker.js";
import { poll } from "./poll.js";
import { loadingSentence } from "./progress.js";
import { failed, toast } from "./toast.js";
import { bytes } from "./units.js";

const EVERY_MS = 2000;

const STATES = {
  ready: () => gettext("Ready"),
  loading: () => gettext("Loading"),
  starting: () => gettext("Starting"),
  unloading: () => gettext("Unloading"),
  empty: () => gettext("No model loaded"),
  stopped: () => gettext("Not started"),
};

const root = $("[data-engine]");
const loading = $("[data-load]"); // absent where there is no base model
const model = $("#load-model");
const pin = $("[data-pin]");
const unload = $("[data-unload]");
let last = null;
let loaded = null; // slug of the loaded base

pickers(root ?? undefined);

const put = (name, value) => ($(`[data-value="${name}"]`).textContent = value);

function stateOf({ worker, engine }) {
  const state = worker.state === "ready" ? (engine?.state ?? "ready") : worker.state;
  return (STATES[state] ?? (() => state))();
}

function show(status) {
  const { worker, engine } = status;
  put("state", stateOf(status));
  put("where", engine?.loading ? loadingSentence(engine.loading) : [worker.device, worker.pid && fill(gettext("process %(pid)s"), { pid: worker.pid })].filter(Boolean).join(" · "));
  put("base", engine?.base ?? "–");
  put("precision", engine?.base ? [engine.precision, fill(gettext("context length: %(n)s tokens"), { n: number(engine.context ?? 0) })].join(" · ") : "");
  put("running", number(engine?.running ?? 0));
  put("slots", engine?.slots ? fill(gettext("of %(n)s slots"), { n: engine.slots }) : "");
  put("waiting", number(engine?.waiting ?? 0));
  put("in_flight", fill(gettext("%(n)s in progress"), { n: worker.in_flight ?? 0 }));
  put("restarts", number(worker.restarts ?? 0));
  put("tokens", fill(gettext("%(n)s since start"), { n: number(engine?.tokens ?? 0) }));
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
  if (last && tokens >= last.tokens) put("speed", number(((tokens - last.tokens) * 1000) / (now - last.at), 1));
  last = { at: now, tokens };
}

function showMemory(engine) {
  const memory = engine?.memory;
  if (!memory) return $("[data-memory]").replaceChildren(el("div", {}, el("dt", {}, "–")));
  const whole = memory.device_total || memory.rss;
  const rows = [
    [gettext("Base model"), memory.base, whole],
    [gettext("Adapters"), memory.adapters, memory.adapter_budget],
    [gettext("Answer cache (KV)"), memory.kv, whole],
    memory.device_total ? [gettext("GPU"), memory.device_used, memory.device_total] : [gettext("Process"), memory.rss, memory.rss_limit],
    [gettext("Peak"), memory.device_total ? memory.device_peak : memory.rss_peak, 0],
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
    return el("li", { className: `badge ${one.in_use ? "badge-active" : ""}`, title: one.digest }, cutName(one.name), el("span", { className: "flex-none" }, `· ${detail.join(" · ")}`));
  });
  $("[data-bank]").replaceChildren(...(chips.length ? chips : [el("li", { className: "text-sm text-ink-2" }, gettext("None. Adapters are loaded on first request."))]));
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
    toast("good", fill(gettext("%(name)s has been loaded"), { name }));
  });
});

pin?.addEventListener("click", () => {
  const keep = pin.getAttribute("aria-pressed") !== "true";
  operate(pin, async () => {
    await post("/api/inference/load", { model: loaded ?? model.value, pin: keep });
    toast("good", keep ? gettext("The base model stays loaded") : gettext("The base model no longer stays loaded"));
  });
});

unload?.addEventListener("click", () =>
  operate(unload, async () => {
    const { freed_bytes: freed } = await post("/api/inference/unload");
    toast("good", gettext("The base model has been unloaded"), fill(gettext("%(size)s freed"), { size: bytes(freed) }));
  }),
);

export const watchEngine = () => poll(root.dataset.url, show, $("[data-problem]"), EVERY_MS);
