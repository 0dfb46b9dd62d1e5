// One model's answer on the comparison page. While it is blind, nothing in it says whose the answer is.
import { compareWords, firstDivergence, wordStart } from "./diff.js";
import { cutName, el, icon } from "./dom.js";
import { fill, gettext, number, seconds } from "./i18n.js";
import { endingSentence, Waiting } from "./progress.js";
import { TextStream } from "./stream.js";

export class Column {
  #early = []; // pieces that came while the answer was held back
  #error = null;

  /** `asked`: what ChosenModels lists, and the `target` of its frames; `label` is shown instead of the name while it is
   * blind, null where it is not. */
  constructor({ key, target, model, blend, name, params }, label) {
    this.target = target;
    this.slug = model;
    this.blend = blend; // [{model, weight}], of none else
    this.name = name;
    this.params = params; // those of its own
    this.own = key;
    this.label = label;
    this.key = label ?? key; // what the page's elements know it by
    this.blind = label !== null;
    this.held = this.blind;
    this.done = null;
    this.tokens = [];
    this.title = el("h3", { className: "min-w-0 flex-1" }, label ?? titleOf(name));
    this.state = el("p", { className: "state text-xs", role: "status" });
    this.output = el("div", { className: "answer min-h-24 text-base", role: "group", "aria-label": gettext("Answer") });
    this.output.dataset.testid = "compare-output";
    this.output.dataset.live = "true";
    this.part = el("p", { className: "px-4 pb-2 text-xs text-ink-2", hidden: true, dataset: { testid: "parts" } });
    this.vote = el("button", { type: "button", className: "btn btn-sm ml-auto", disabled: true, dataset: { vote: this.key, testid: "vote" } }, icon("thumbs-up"), gettext("Best"));
    this.vote.setAttribute("aria-pressed", "false");
    this.stats = el("p", { className: "min-h-4 text-xs text-ink-3 tabular-nums" });
    this.cut = el("span", { className: "tag tag-warn", hidden: true, dataset: { testid: "cut-off" } }, gettext("stopped at the token limit"));
    const foot = el("div", { className: "card-foot mt-auto" }, this.stats, this.cut, this.vote);
    const head = el("div", { className: "card-head is-fixed" }, this.title, this.state);
    this.element = el("article", { className: "card flex min-w-0 flex-col", dataset: { slug: label ? "" : model, testid: "compare-column" } }, head, this.output, this.part, foot);
    this.stream = new TextStream(this.output);
    this.waiting = new Waiting((sentence) => this.#say(sentence));
  }

  get text() {
    return this.final ?? this.stream.text;
  }

  /** Whether it can be voted on: it is whole, and who answered is known. */
  get judgeable() {
    return Boolean(this.done?.digest);
  }

  queued(frame) {
    if (this.blind) return this.#say(gettext("Waiting…"));
    this.waiting.say("queued", frame);
  }

  loading(frame) {
    if (this.blind) return this.#say(gettext("Waiting…"));
    this.waiting.say("loading", frame);
  }

  token(frame) {
    if (frame.logprobs) this.tokens.push(...frame.logprobs);
    if (this.held) return this.#early.push(frame.text);
    if (this.state.textContent) this.#say("");
    this.waiting.end();
    this.stream.push(frame.text);
  }

  /** Let go what was held back so that no model would be known by its start. */
  release() {
    this.held = false;
    if (!this.#early.length) return;
    this.#say("");
    this.stream.push(this.#early.join(""));
    this.#early = [];
  }

  finish(frame) {
    if (frame.logprobs) this.tokens.push(...frame.logprobs);
    this.done = frame;
  }

  fail(frame) {
    this.#error = frame;
  }

  /** After `finish` or `fail`, and once it is not held back: the whole text, the numbers, the error. */
  settle() {
    this.release();
    this.stream.flush();
    this.final = this.stream.text;
    this.output.dataset.live = "false";
    this.waiting.end();
    this.#say("");
    this.cut.hidden = this.done?.finish_reason !== "length";
    this.#tell();
  }

  #tell() {
    this.element.querySelector(".note")?.remove();
    if (this.#error) {
      const note = el("div", { className: "note note-bad m-4 mt-0", role: "alert", dataset: { testid: "column-error" } }, icon("circle-exclamation"));
      const { code, message } = this.#error;
      const words = this.blind ? [gettext("No answer. The reason is shown together with the names.")] : [el("code", { className: "code mr-1.5" }, code), message];
      note.append(el("p", { className: "min-w-0" }, ...words));
      this.part.before(note);
    }
    if (!this.done || this.blind) return;
    const { timings, usage } = this.done;
    const parts = [];
    if (timings) parts.push(seconds(timings.total), fill(gettext("%(n)s tok/s"), { n: number(timings.tokens_per_second, 1) }));
    if (usage) parts.push(fill(gettext("%(n)s tokens"), { n: number(usage.completion_tokens) }));
    this.stats.textContent = parts.join(" · ");
    this.stats.title = fill(gettext("Finish reason: %(reason)s"), { reason: endingSentence(this.done) });
  }

  #say(text) {
    this.state.textContent = this.state.title = text;
  }

  reveal() {
    if (!this.blind) return;
    this.blind = false;
    this.title.replaceChildren(titleOf(this.name));
    this.element.dataset.slug = this.slug;
    this.#tell();
  }

  chosen(on) {
    this.vote.setAttribute("aria-pressed", String(on));
    this.vote.classList.toggle("btn-primary", on);
  }

  /** Colour the tokens by `colours`. */
  colour(colours) {
    this.part.hidden = true;
    colours.draw(this.output, this.text, this.tokens);
  }

  /** Mark what differs from `reference`, another column; without one, where the answers part (`parting`, a word). */
  mark(reference, parting) {
    if (this.final === undefined) return;
    const text = this.text;
    this.part.hidden = !reference || reference === this;
    if (!this.part.hidden) {
      const at = firstDivergence(reference.text, text);
      this.part.textContent = at ? fill(gettext("Differs from word %(n)s"), { n: number(at) }) : gettext("Identical");
      const parts = compareWords(reference.text, text);
      if (!parts) this.part.append(` · ${gettext("too long to highlight every word")}`);
      return this.output.replaceChildren(...(parts ?? [{ kind: "same", text }]).map(partElement));
    }
    const cut = !reference && parting > 1 ? wordStart(text, parting) : 0;
    if (!cut) return this.output.replaceChildren(text);
    const here = el("span", { className: "parting", role: "img", "aria-label": gettext("The answers differ from here"), title: gettext("The answers differ from here") });
    this.output.replaceChildren(text.slice(0, cut), here, text.slice(cut));
  }
}

/** A name that the keyboard can reach where it may be cut. */
function titleOf(name) {
  const title = cutName(name);
  if (title.children.length > 1) title.tabIndex = 0;
  return title;
}

/** A part of `compareWords` as it is shown. */
export function partElement({ kind, text }) {
  if (kind === "same" || (kind === "new" && !text.trim())) return text;
  if (kind === "new") return el("mark", { className: "differs" }, text);
  const words = fill(gettext("Missing here: %(words)s"), { words: text.trim() });
  return el("span", { className: "gap-mark", role: "img", "aria-label": words, title: words });
}
