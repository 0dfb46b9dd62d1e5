// "Activate and compare": the checkpoints of a run made ready one by one, then the page that compares them.
import { busy } from "./adapter.js";
import { get, post } from "./api.js";
import { $, cutName, el, icon } from "./dom.js";
import { fill, gettext, ngettext, number } from "./i18n.js";
import { toast } from "./toast.js";

const MOST = 8; // that one comparison asks
const LISTED = 200;
const WATCH_MS = 500;

const servable = (one) => one.status === "active" || (one.status === "discovered" && !one.incomplete && !one.missing);

/** Of the members of a run, in order of training: all, or where they are too many the best, the last and some between. */
export function compared(members, most = MOST) {
  const ready = members.filter((one) => servable(one) && (one.duplicate_of === null || one.status === "active"));
  if (ready.length <= most) return ready;
  const kept = new Set([ready.find((one) => one.is_best), ready.at(-1)].filter(Boolean));
  const others = ready.filter((one) => !kept.has(one));
  const room = most - kept.size;
  for (let at = 0; at < room; at++) kept.add(others[room > 1 ? Math.round((at * (others.length - 1)) / (room - 1)) : 0]);
  return ready.filter((one) => kept.has(one));
}

const addressOf = (ready) => `/compare?models=${ready.map((one) => encodeURIComponent(one.slug)).join(",")}`;

/** The dialog that shows how far each one is. */
class Progress {
  #dialog;
  #rows;
  #on = true;

  constructor(chosen, all) {
    this.#rows = new Map(chosen.map((one) => [one, el("span", { className: "ml-auto flex-none pl-3 text-ink-3" }, gettext("waiting"))]));
    const list = el("ul", { className: "flex flex-col gap-2 text-sm" }, ...chosen.map((one) => el("li", { className: "flex items-center" }, cutName(one.name), this.#rows.get(one))));
    const left = all - chosen.length;
    const about = left > 0 ? el("p", { className: "text-sm text-ink-2" }, fill(gettext("The run has %(all)s checkpoints; at most %(most)s are compared: the best, the last and some between."), { all: number(all), most: number(chosen.length) })) : null;
    this.bar = el("progress", { className: "progress", max: chosen.length, value: 0, "aria-label": gettext("Activated") });
    this.end = el("button", { className: "btn btn-quiet", type: "button", dataset: { testid: "compare-run-cancel" } }, gettext("Cancel"));
    this.go = el("button", { className: "btn btn-primary", type: "button", hidden: true, dataset: { testid: "compare-run-go" } });
    this.foot = el("p", { className: "text-sm text-bad", role: "alert" });
    const title = el("h2", { id: "compare-run-title" }, gettext("Activating the checkpoints"));
    this.#dialog = el("dialog", { className: "dialog", "aria-labelledby": "compare-run-title", dataset: { testid: "compare-run-dialog" } }, el("div", { className: "flex flex-col gap-4 p-5" }, title, ...(about ? [about] : []), this.bar, list, this.foot), el("div", { className: "dialog-foot" }, this.end, this.go));
    this.end.addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => {
      this.#on = false;
      this.#dialog.remove();
    });
    document.body.append(this.#dialog);
    this.#dialog.showModal();
  }

  /** Until it is closed. */
  get isOn() {
    return this.#on;
  }

  say(one, words, sign = null) {
    this.#rows.get(one).replaceChildren(...(sign ? [icon(sign), " "] : []), words);
  }

  /** Some were refused: the others may be compared all the same. */
  offer(ready, refused) {
    this.foot.textContent = fill(ngettext("%(n)s checkpoint was refused: %(why)s", "%(n)s checkpoints were refused: %(why)s", refused.length), { n: number(refused.length), why: refused[0].message });
    this.end.textContent = gettext("Close");
    if (!ready.length) return;
    this.go.hidden = false;
    this.go.textContent = fill(ngettext("Compare the other one", "Compare the other %(n)s", ready.length), { n: number(ready.length) });
    this.go.addEventListener("click", () => location.assign(addressOf(ready)));
    this.go.focus();
  }
}

/** Activate one; its share is shown as long as the copy is made. */
async function activate(one, progress) {
  progress.say(one, gettext("activating…"));
  const timer = setInterval(async () => {
    const { activation } = await get(`/api/lora/models/${one.id}`).catch(() => ({}));
    if (activation?.progress) progress.say(one, `${Math.round(100 * activation.progress)} %`);
  }, WATCH_MS);
  try {
    await post(`/api/lora/models/${one.id}/activate`);
  } finally {
    clearInterval(timer);
  }
}

async function run(id, done) {
  const { results, count } = await get(`/api/lora/models?run_of=${id}&ordering=checkpoint&page_size=${LISTED}`);
  const chosen = compared(results);
  if (!chosen.length) return toast("bad", gettext("None of these checkpoints can be activated."), gettext("Their folders are incomplete or missing, or they were refused."));
  const waiting = chosen.filter((one) => one.status !== "active");
  if (!waiting.length) return location.assign(addressOf(chosen));
  const progress = new Progress(chosen, count);
  const refused = [];
  for (const one of chosen) {
    if (!progress.isOn) return done();
    try {
      if (one.status !== "active") await activate(one, progress);
      progress.say(one, gettext("active"), "check");
    } catch (error) {
      refused.push({ one, message: error.message });
      progress.say(one, error.code ?? gettext("refused"), "xmark");
    }
    progress.bar.value += 1;
  }
  done();
  if (!progress.isOn) return;
  const ready = chosen.filter((one) => !refused.some((other) => other.one === one));
  if (refused.length) progress.offer(ready, refused);
  else location.assign(addressOf(ready));
}

/** Follow the buttons of this page; `done` runs when something was activated. */
export function comparesRuns(done = () => {}) {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-compare-run]");
    if (!button || $("dialog[open]")) return;
    busy(button, true);
    try {
      await run(button.dataset.compareRun, done);
    } catch (error) {
      toast("bad", gettext("The checkpoints could not be loaded."), error.message);
    } finally {
      busy(button, false);
    }
  });
}
