// A run: how far it is, its table and its curves, which follow it while it is under way.
import { busy } from "./lib/adapter.js";
import { post, request } from "./lib/api.js";
import { partElement } from "./lib/column.js";
import { compareWords } from "./lib/diff.js";
import { $, $$, data } from "./lib/dom.js";
import { about, fill, gettext, ngettext, number } from "./lib/i18n.js";
import { poll } from "./lib/poll.js";
import { RunChart } from "./lib/runchart.js";
import { failed, toast, toastLater } from "./lib/toast.js";

const EVERY_MS = 2000;
const UNDER_WAY = new Set(["queued", "running"]);
const BADGES = { done: "badge-active", failed: "badge-failed", cancelled: "badge-discovered" };
const STATES = { queued: gettext("queued"), running: gettext("running"), done: gettext("done"), cancelled: gettext("cancelled"), failed: gettext("failed") };
const LINES = {
  pass: [{ key: "share", name: gettext("pass rate"), dots: true }, { key: "low", name: gettext("95% interval, lower end"), dash: [3, 3] }, { key: "high", name: gettext("95% interval, upper end"), dash: [3, 3] }],
  loss: [{ key: "loss", name: gettext("training") }, { key: "eval_loss", name: gettext("evaluation"), dash: [6, 3], dots: true }, { key: "held_out", name: gettext("references, measured here"), dots: true, colour: 3 }],
};

const id = $("[data-run]").dataset.run;
const API = `/api/evaluations/runs/${id}`;
const part = $("[data-part]");
let shown = data("whole");

function show(run) {
  const state = $("[data-state]");
  state.textContent = STATES[run.state];
  state.className = `badge ${BADGES[run.state] ?? "badge-accent"}`;
  const said = [fill(gettext("%(done)s of %(all)s"), { done: number(run.done), all: number(run.total) })];
  if (run.reused) said.push(fill(ngettext("%(n)s answer was there already", "%(n)s answers were there already", run.reused), { n: number(run.reused) }));
  const tokens = run.prompt_tokens + run.completion_tokens;
  if (tokens) said.push(fill(gettext("%(n)s tokens computed"), { n: number(tokens) }));
  if (run.expected_seconds !== null && UNDER_WAY.has(run.state)) said.push(fill(gettext("%(left)s and about %(n)s tokens left"), { left: about(run.expected_seconds), n: number(run.expected_tokens) }));
  if (run.waiting) said.push(fill(gettext("waiting: %(code)s"), { code: run.waiting }));
  $("[data-said]").textContent = said.join(" · ");
  $("[data-bar]").value = run.done;
  const cancel = $("[data-cancel]");
  if (cancel) cancel.hidden = !UNDER_WAY.has(run.state);
}

async function follow(run) {
  const moved = run.done !== shown.done || run.state !== shown.state;
  shown = run;
  show(run);
  if (moved && !part.contains(document.activeElement)) await refresh();
}

/** Table and curves as they are now. */
async function refresh() {
  const response = await fetch(location.href, { headers: { "X-Part": "1" }, credentials: "same-origin" });
  if (!response.ok) return;
  const chosen = $("[data-differences]").value;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  part.replaceChildren(...fresh.body.childNodes);
  $("[data-differences]").value = chosen;
  draw();
}

function draw() {
  for (const section of $$("[data-curve]")) {
    const group = JSON.parse($("script", section).textContent);
    const curve = group.training?.curve ?? [];
    const scored = group.points.filter((point) => point.loss !== null).map(({ step, loss }) => ({ step, held_out: loss }));
    const judged = group.points.filter((point) => point.share !== null);
    const steps = [...curve, ...group.points].map((point) => point.step);
    const look = { axis: "step", log: false, smoothing: 0, range: [Math.min(...steps), Math.max(...steps)] };
    for (const [name, points] of [["pass", judged], ["loss", [...curve, ...scored]]]) {
      new RunChart($(`[data-chart="${name}"]`, section), LINES[name]).show([{ name: group.name, curve: points }], look);
    }
  }
  mark();
}

/** Words that differ from what is chosen: of the same item another model's answer, or the reference. */
function mark() {
  const chosen = $("[data-differences]").value;
  for (const row of $$("[data-testid=result-row]")) {
    const other = chosen === "reference" ? $("[data-reference]", row) : chosen && $(`[data-target="${chosen}"] [data-text]`, row);
    for (const text of $$("[data-text]", row)) {
      text.dataset.plain ??= text.textContent;
      const parts = other && other !== text && compareWords(other.dataset.plain ?? other.textContent, text.dataset.plain);
      text.replaceChildren(...(parts ? parts.map(partElement) : [text.dataset.plain]));
    }
  }
}

part.addEventListener("change", ({ target }) => target.matches("[data-differences]") && mark());
part.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-activate]");
  if (!button) return;
  busy(button, true);
  try {
    await post(`/api/lora/models/${button.dataset.activate}/activate`);
    toast("good", gettext("Activated"));
  } catch (error) {
    failed(error);
  }
  busy(button, false);
});
$("[data-cancel]")?.addEventListener("click", () => post(`${API}/cancel`).then(follow).catch(failed));
$("[data-again]")?.addEventListener("click", () => post(`${API}/again`).then((run) => location.assign(`/evaluations/runs/${run.id}`), failed));
$("[data-share]")?.addEventListener("change", ({ target }) =>
  request("PATCH", API, { shared: target.checked }).catch((error) => {
    target.checked = !target.checked;
    failed(error);
  }),
);
$("[data-delete-run]")?.addEventListener("submit", async () => {
  try {
    await request("DELETE", API);
    toastLater("good", gettext("Deleted"));
    location.assign("/evaluations");
  } catch (error) {
    failed(error);
  }
});

show(shown);
draw();
if (UNDER_WAY.has(shown.state)) poll(API, follow, $("[data-problem]"), EVERY_MS);
document.documentElement.dataset.ready = "true";
