// The training of a run on its adapter's page: curves that grow while it is trained, other runs laid over them.
import { get } from "./api.js";
import { $, $$, cutName, data, el, icon } from "./dom.js";
import { about, fill, gettext, locale, number, percent } from "./i18n.js";
import { Listbox } from "./listbox.js";
import { COLOURS, RunChart, tableOf } from "./runchart.js";
import { failed, toast } from "./toast.js";

const EVERY_MS = 3000; // while something is trained
const SEARCH_AFTER_MS = 150;
const LISTED = 30;

const LINES = {
  loss: [{ key: "loss", name: gettext("training"), smooth: true }, { key: "eval_loss", name: gettext("evaluation"), dash: [6, 3] }],
  learning_rate: [{ key: "learning_rate", name: gettext("learning rate") }],
  grad_norm: [{ key: "grad_norm", name: gettext("gradient norm"), smooth: true }],
};

const root = $("[data-training]");
const form = $("[data-look]", root);
const charts = $$("[data-chart]", root).map((figure) => new RunChart(figure, LINES[figure.dataset.chart]));
const runs = [data("curve")]; // the page's own first

// Showing ----------------------------------------------------------------------------------------------------------

function look() {
  return { axis: form.elements.axis.value, log: form.elements.log.checked, smoothing: Number(form.elements.smoothing.value) };
}

function show() {
  const has = (key) => runs.some((run) => run.curve.some((point) => key in point));
  for (const [axis, key] of [["epoch", "epoch"], ["time", "elapsed"]]) {
    const choice = $(`[name="axis"][value="${axis}"]`, form);
    choice.closest("label").hidden = !has(key);
    if (!has(key) && choice.checked) $('[name="axis"][value="step"]', form).checked = true;
  }
  for (const chart of charts) chart.show(runs, look());
  $("[data-none]", root).hidden = runs[0].curve.length > 1;
  $("[data-smoothing-said]", form).textContent = form.elements.smoothing.value;
  showState(runs[0]);
  showChips();
  fillTable();
}

function showState({ state, step, max_steps: most, updated_at: told, ends_at: end }) {
  const box = $("[data-training-state]", root);
  box.hidden = state !== "training";
  if (box.hidden) return;
  const share = step / most;
  const time = (moment) => new Intl.DateTimeFormat(locale, { timeStyle: "short" }).format(new Date(moment));
  const parts = [fill(gettext("step %(n)s of %(all)s (%(share)s)"), { n: number(step ?? 0), all: number(most), share: percent(share) })];
  const left = end ? (new Date(end) - Date.now()) / 1000 : null;
  if (left !== null) parts.push(fill(gettext("%(left)s left, until %(time)s"), { left: left > 5400 ? fill(gettext("about %(n)s h"), { n: number(left / 3600, 1) }) : about(left), time: time(end) }));
  if (told) parts.push(fill(gettext("written at %(time)s"), { time: time(told) }));
  $("[data-training-said]", box).textContent = parts.join(" · ");
  $("progress", box).value = share;
}

function showChips() {
  const chips = runs.slice(1).map((run, at) => {
    const name = run.run || run.name;
    const label = fill(gettext("Remove %(name)s"), { name });
    const remove = el("button", { type: "button", className: "chip-button", "aria-label": label, title: label }, icon("xmark"));
    remove.addEventListener("click", () => {
      runs.splice(at + 1, 1);
      changed();
      $("[data-overlay]", root).focus();
    });
    const key = el("span", { className: "run-key", "aria-hidden": "true" });
    key.style.background = `var(${COLOURS[(at + 1) % COLOURS.length]})`;
    return el("li", { className: "chip", dataset: { testid: "overlaid" } }, key, cutName(name), remove);
  });
  $("[data-overlaid]", root).replaceChildren(...chips);
  $("[data-overlay]", root).disabled = runs.length >= COLOURS.length;
}

const details = $("[data-training-table]", root);

function fillTable() {
  if (details.open) $("[data-table]", details).replaceChildren(tableOf(runs[0], Object.values(LINES).flat()));
}

// Other runs -------------------------------------------------------------------------------------------------------

function changed() {
  const address = new URL(location.href);
  const others = runs.slice(1).map((run) => run.id);
  if (others.length) address.searchParams.set("with", others.join(","));
  else address.searchParams.delete("with");
  history.replaceState(null, "", address);
  show();
}

// Two checkpoints of one run tell the same.
const written = (run) => Math.floor(Date.parse(run.updated_at) / 1000);
const same = (one, other) => one.id === other.id || (one.run === other.run && one.step === other.step && written(one) === written(other));

async function add(id) {
  const run = await get(`/api/lora/models/${id}/curve`);
  if (run.curve.length < 2) return toast("info", gettext("Nothing is known of the training of this run."));
  if (runs.length < COLOURS.length && !runs.some((one) => same(one, run))) runs.push(run);
}

/** A field that finds runs. */
function overlay() {
  const field = $("[data-overlay]", root);
  const panel = $("[data-overlay-panel]", root);
  let timer;
  let turn = 0;
  const list = new Listbox(field, $(".listbox", panel), async ({ id }) => {
    close();
    field.value = "";
    await add(id).catch(failed);
    changed();
  });
  const close = () => {
    clearTimeout(timer);
    turn++;
    panel.hidden = true;
    list.isOpen = false;
  };
  const search = async () => {
    const mine = ++turn;
    const words = encodeURIComponent(field.value.trim());
    let found = [];
    let said = "";
    try {
      found = (await get(`/api/lora/models?search=${words}&ordering=-trained_at&page_size=${LISTED}`)).results;
    } catch (error) {
      said = error.message;
    }
    if (mine !== turn) return;
    const latest = [...found].reverse(); // of each run its newest member stands for it
    const byRun = new Map(latest.map((one) => [one.path_label.replace(/\/checkpoint-\d+$/, ""), one]));
    const others = [...byRun.values()].reverse().filter((one) => !runs.some((run) => run.id === one.id || (run.run && run.run === one.run)));
    const items = others.map((one) => {
      const facts = [one.base?.name, one.loss === null ? null : fill(gettext("loss %(n)s"), { n: number(one.loss, 3) })].filter(Boolean);
      return { id: one.id, content: [cutName(one.run || one.name), el("span", { className: "listbox-facts" }, facts.join(" · "))], data: { testid: "overlay-option" } };
    });
    list.show([{ title: "", items }], (one) => one === items[0]);
    list.isOpen = true;
    $(".picker-note", panel).textContent = said || (items.length ? "" : gettext("Nothing matches."));
    $(".picker-note", panel).hidden = items.length > 0;
    panel.hidden = false;
  };
  field.addEventListener("focus", search);
  if (document.activeElement === field) search(); // it had the focus before this was here
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, SEARCH_AFTER_MS);
  });
  field.addEventListener("focusout", close);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    else if (panel.hidden && event.key === "ArrowDown") search();
    else if (!panel.hidden) list.takeKey(event);
  });
}

// Growing ----------------------------------------------------------------------------------------------------------

async function grow() {
  const trained = runs.filter((run) => run.state === "training");
  if (!trained.length) return;
  if (document.visibilityState === "visible") {
    for (const run of trained) {
      const fresh = await get(`/api/lora/models/${run.id}/curve`).catch(() => null); // the next round tries again
      if (fresh && (fresh.updated_at !== run.updated_at || fresh.state !== run.state)) Object.assign(run, fresh);
    }
    show();
  }
  setTimeout(grow, EVERY_MS);
}

form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
details.addEventListener("toggle", fillTable);
overlay();
show();
const wanted = (new URLSearchParams(location.search).get("with") ?? "").split(",").filter(Boolean).slice(0, COLOURS.length - 1);
if (wanted.length) Promise.all(wanted.map((id) => add(id).catch(failed))).then(changed);
setTimeout(grow, EVERY_MS);
root.dataset.shown = "true";
