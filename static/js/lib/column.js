// One model's answer on the comparison page.
import { compareWords, firstDivergence } from "./diff.js";
import { el, icon } from "./dom.js";
import { fill, gettext, number, seconds } from "./i18n.js";
import { endingSentence, Waiting } from "./progress.js";
import { TextStream } from "./stream.js";

export class Column {
  constructor(slug, name, label) {
    this.slug = slug;
    this.name = name;
    this.label = label; // shown instead of the name while blind
    this.done = null;
    this.title = el("h3", { className: "min-w-0 truncate" }, label ?? name);
    this.state = el("p", { className: "state ml-auto text-xs", role: "status" });
    this.output = el("div", { className: "answer min-h-24 text-base" });
    this.output.dataset.testid = "compare-output";
    this.output.dataset.live = "true";
    this.part = el("p", { className: "px-4 pb-2 text-xs text-ink-3", hidden: true });
    this.vote = el("button", { type: "button", className: "btn btn-sm", disabled: true, dataset: { vote: slug, testid: "vote" } }, icon("thumbs-up"), gettext("Best"));
    this.stats = el("p", { className: "text-xs text-ink-3 tabular-nums" });
    const foot = el("div", { className: "card-foot mt-auto justify-between" }, this.stats, this.vote);
    const head = el("div", { className: "card-head flex-wrap" }, this.title, this.state);
    this.element = el("article", { className: "card flex min-w-0 flex-col", dataset: { slug: label ? "" : slug, testid: "compare-column" } }, head, this.output, this.part, foot);
    this.stream = new TextStream(this.output);
    this.waiting = new Waiting((sentence) => this.#say(sentence));
  }

  get text() {
    return this.final ?? this.stream.text;
  }

  queued(frame) {
    this.waiting.say("queued", frame);
  }

  loading(frame) {
    this.waiting.say("loading", frame);
  }

  token(frame) {
    if (this.state.textContent) this.#say("");
    this.waiting.end();
    this.stream.push(frame.text);
  }

  finish(frame) {
    this.#end();
    this.done = frame;
    this.vote.disabled = false;
    const parts = [];
    if (frame.timings) parts.push(seconds(frame.timings.total), fill(gettext("%(n)s tok/s"), { n: number(frame.timings.tokens_per_second, 1) }));
    if (frame.usage) parts.push(fill(gettext("%(n)s tokens"), { n: number(frame.usage.completion_tokens) }));
    this.stats.textContent = parts.join(" · ");
    this.stats.title = fill(gettext("Ended by %(reason)s"), { reason: endingSentence(frame) });
  }

  fail(frame) {
    this.#end();
    const note = el("div", { className: "note note-bad m-4 mt-0", role: "alert" }, icon("circle-exclamation"));
    note.append(el("p", { className: "min-w-0 break-words" }, el("code", { className: "code mr-1.5" }, frame.code), frame.message));
    this.part.before(note);
  }

  #end() {
    this.stream.flush();
    this.final = this.stream.text;
    this.output.dataset.live = "false";
    this.waiting.end();
    this.#say("");
  }

  #say(text) {
    this.state.textContent = text;
  }

  reveal() {
    this.title.textContent = this.name;
    this.element.dataset.slug = this.slug;
  }

  chosen(on) {
    this.vote.setAttribute("aria-pressed", String(on));
    this.vote.classList.toggle("btn-primary", on);
  }

  /** Mark what differs from `reference`, another column or null. */
  mark(reference) {
    if (this.final === undefined) return;
    const pairs = reference && reference !== this ? compareWords(reference.text, this.text) : null;
    this.part.hidden = !pairs;
    if (!pairs) return this.output.replaceChildren(this.text);
    this.output.replaceChildren(...pairs.map(([word, same]) => (same || !word.trim() ? word : el("mark", { className: "differs" }, word))));
    const at = firstDivergence(reference.text, this.text);
    this.part.textContent = at ? fill(gettext("Parts at word %(n)s"), { n: number(at) }) : gettext("The same, word by word");
  }
}
