// Head to head of a run: start one, follow it while it is under way.
import { busy } from "./lib/adapter.js";
import { post, request } from "./lib/api.js";
import { $, $$, data } from "./lib/dom.js";
import { fill, gettext, ngettext, number } from "./lib/i18n.js";
import { pickers } from "./lib/picker.js";
import { poll } from "./lib/poll.js";
import { failed, toastLater } from "./lib/toast.js";

const EVERY_MS = 2000;
const UNDER_WAY = new Set(["queued", "running"]);
const BADGES = { done: "badge-active", failed: "badge-failed", cancelled: "badge-discovered" };
const STATES = { queued: gettext("queued"), running: gettext("running"), done: gettext("done"), cancelled: gettext("cancelled"), failed: gettext("failed") };

const run = $("[data-run]").dataset.run;
const page = `/evaluations/runs/${run}/head-to-head`;
const duel = $("[data-duel]")?.dataset.duel;
const API = `/api/evaluations/head-to-head/${duel}`;
if (duel) follow();
const form = $("[data-new-duel]");
if (form) start();
document.documentElement.dataset.ready = "true";

function follow() {
  const part = $("[data-part]");
  let shown = data("facts");

  function show(facts) {
    const state = $("[data-state]");
    state.textContent = STATES[facts.state];
    state.className = `badge ${BADGES[facts.state] ?? "badge-accent"}`;
    const said = [fill(gettext("%(done)s of %(all)s"), { done: number(facts.done), all: number(facts.total) })];
    if (facts.unclear) said.push(fill(ngettext("%(n)s without a verdict", "%(n)s without a verdict", facts.unclear), { n: number(facts.unclear) }));
    if (facts.same) said.push(fill(ngettext("%(n)s of the same text", "%(n)s of the same text", facts.same), { n: number(facts.same) }));
    if (facts.reused) said.push(fill(ngettext("%(n)s was judged before", "%(n)s were judged before", facts.reused), { n: number(facts.reused) }));
    const tokens = facts.prompt_tokens + facts.completion_tokens;
    if (tokens) said.push(fill(gettext("%(n)s tokens computed"), { n: number(tokens) }));
    if (facts.waiting) said.push(fill(gettext("waiting: %(code)s"), { code: facts.waiting }));
    $("[data-said]").textContent = said.join(" · ");
    $("[data-bar]").value = facts.done;
    const cancel = $("[data-cancel]");
    if (cancel) cancel.hidden = !UNDER_WAY.has(facts.state);
  }

  async function take(facts) {
    const moved = facts.done !== shown.done || facts.state !== shown.state;
    shown = facts;
    show(facts);
    if (!moved || part.contains(document.activeElement) || $("details[open]", part)) return;
    const response = await fetch(location.href, { headers: { "X-Part": "1" }, credentials: "same-origin" });
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    part.replaceChildren(...fresh.body.childNodes);
  }

  $("[data-cancel]")?.addEventListener("click", () => post(`${API}/cancel`).then(take).catch(failed));
  $("[data-delete-duel]")?.addEventListener("submit", async () => {
    try {
      await request("DELETE", API);
      toastLater("good", gettext("Deleted"));
      location.assign(page);
    } catch (error) {
      failed(error);
    }
  });
  show(shown);
  if (UNDER_WAY.has(shown.state)) poll(API, take, $("[data-problem]"), EVERY_MS);
}

function start() {
  const problem = $("[data-form-problem]", form);
  const { outside, judge, items, criteria } = form.elements;

  const chosen = () => $$("[name=target]:checked", form).map((one) => Number(one.value));

  function say(message) {
    problem.textContent = message;
    problem.hidden = !message;
  }

  function show() {
    if (judge && outside) judge.disabled = outside.checked;
    const models = chosen().length;
    const asked = Math.min(Number(items.value) || Infinity, Number(form.dataset.items));
    const pairs = (asked * models * (models - 1)) / 2;
    const said = [fill(ngettext("At most %(n)s comparison, asked in both orders.", "At most %(n)s comparisons, each asked in both orders.", pairs), { n: number(pairs) })];
    if (pairs > Number(form.dataset.most)) said.push(fill(gettext("The limit is %(n)s."), { n: number(Number(form.dataset.most)) }));
    $("[data-size]", form).textContent = models > 1 ? said.join(" ") : "";
  }

  form.addEventListener("input", show);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (chosen().length < 2) return say(gettext("Choose at least two models."));
    const name = outside?.checked ? "" : (judge?.value ?? "");
    if (!name && !outside?.checked) return say(gettext("Choose a judge."));
    const body = { judge: name, targets: chosen(), criteria: criteria.value };
    if (items.value) body.items = Number(items.value);
    const button = $("[data-testid=duel-start]", form);
    busy(button, true);
    try {
      const made = await post(`/api/evaluations/runs/${run}/head-to-head`, body);
      location.assign(`${page}?judged=${made.id}`);
    } catch (error) {
      say(error.message);
      busy(button, false);
    }
  });
  show();
  pickers(form);
}
