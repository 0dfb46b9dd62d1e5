// One message of a conversation on the page.
import { el, icon } from "./dom.js";
import { fill, gettext, ngettext, number, seconds } from "./i18n.js";
import { MarkdownView } from "./markdown.js";
import { Waiting } from "./progress.js";

const MOST_OF_THE_TIME = 0.25; // that drawing may take while a text grows

export class MessageView {
  constructor(message) {
    this.message = message;
    this.body = el("div", { className: "md" });
    this.head = el("p", { className: "msg-head" });
    this.foot = el("div", { className: "msg-foot" });
    this.element = el(
      "article",
      { className: `msg msg-${message.role}`, dataset: { id: message.id, testid: `message-${message.role}` } },
      ...(message.role === "assistant" ? [this.head] : []),
      this.body,
      this.foot,
    );
    this.markdown = message.role === "assistant" ? new MarkdownView(this.body) : null;
    this.frame = 0;
    this.timer = 0;
    this.rested = 0; // when it may be drawn again
    this.tokens = []; // with their probabilities, where these were asked for
    this.coloured = null; // the element with the coloured text, while that is shown
    this.waiting = new Waiting((sentence) => this.progress(sentence));
    this.update(message);
  }

  update(message) {
    this.message = message;
    if (message.state === "running") {
      this.tokens = [];
      this.colour(null);
    }
    this.element.dataset.state = message.state;
    const live = message.state === "running";
    this.element.dataset.live = String(live);
    this.element.setAttribute("aria-busy", String(live));
    this.waiting.end();
    this.progress("");
    this.draw();
  }

  /** The text so far; drawn with the next frame, or later where the last drawing took long. */
  text(content) {
    this.waiting.end();
    this.message.content = content;
    if (this.frame || this.timer) return;
    const rest = this.rested - performance.now();
    if (rest > 0) this.timer = setTimeout(() => this.#drawSoon(), rest);
    else this.#drawSoon();
  }

  #drawSoon() {
    this.timer = 0;
    if (document.visibilityState === "hidden") this.draw(); // no frames are drawn there
    else this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    this.frame = this.timer = 0;
    const { content, state } = this.message;
    const begun = performance.now();
    if (this.markdown) this.markdown.show(content, state === "running");
    else this.body.textContent = content;
    const ended = performance.now();
    this.rested = ended + (ended - begun) * (1 / MOST_OF_THE_TIME - 1);
    this.onDraw?.();
  }

  /** Show the text as it was generated, its tokens coloured by `colours`; null: as Markdown again. */
  colour(colours) {
    const shown = this.coloured;
    this.coloured = null;
    if (colours) {
      this.coloured = el("div", { className: "msg-tokens", dataset: { testid: "message-tokens" } });
      colours.draw(this.coloured, this.message.content, this.tokens);
    }
    (shown ?? this.body).replaceWith(this.coloured ?? this.body);
    this.foot.querySelector("[data-act=colour]")?.setAttribute("aria-pressed", String(Boolean(this.coloured)));
  }

  progress(sentence) {
    const spinner = sentence ? [el("span", { className: "spinner size-3.5!" }), sentence] : [];
    const edited = this.message.info?.edited ? [el("span", { className: "tag", dataset: { testid: "edited" } }, gettext("edited"))] : [];
    this.head.replaceChildren(el("strong", {}, this.message.target_name || this.message.target), ...edited, ...spinner);
  }

  /** Earlier messages that the model does not see, known before its first word. */
  trimmed(count) {
    this.message.info = { ...this.message.info, trimmed: count };
    this.showNotes(this.message.info, this.message.state);
    this.onDraw?.();
  }

  showProgress(frame) {
    this.waiting.say(frame.kind, frame);
  }

  /** Buttons and facts below; `siblings`: how many versions there are and which one this is. */
  showFoot({ index, count }, last) {
    const { role, state, info = {}, content } = this.message;
    const button = (action, name, sign) => el("button", { type: "button", className: "btn btn-quiet btn-icon", "aria-label": name, title: name, dataset: { act: action, testid: `message-${action}` } }, icon(sign));
    const parts = [];
    if (count > 1) {
      parts.push(button("before", gettext("Previous version"), "chevron-left"), el("span", { className: "tabular-nums" }, `${index + 1}/${count}`), button("after", gettext("Next version"), "chevron-right"));
    }
    if (state !== "running") {
      if (content) parts.push(button("copy", gettext("Copy"), "copy"));
      if (role === "user") parts.push(button("edit", gettext("Edit and resend"), "pen"));
      else parts.push(button("again", gettext("Regenerate answer"), "rotate-right"), button("again-with", gettext("Regenerate with another model"), "shuffle"), button("edit-answer", gettext("Edit answer"), "pen"));
      if (role === "assistant" && content) parts.push(button("to-set", gettext("Add to a prompt set"), "list-check"));
      if (role === "assistant" && last && content && (state === "stopped" || info.finish_reason === "length")) {
        parts.push(el("button", { type: "button", className: "btn btn-quiet", dataset: { act: "continue", testid: "message-continue" } }, icon("arrow-right"), gettext("Continue")));
      }
    }
    if (this.tokens.length) {
      const colours = button("colour", gettext("Probabilities"), "chart-simple");
      colours.setAttribute("aria-pressed", String(Boolean(this.coloured)));
      parts.push(colours);
    }
    const facts = [];
    if (state === "stopped") facts.push(info.finish_reason === "interrupted" ? gettext("interrupted: the server was stopped") : gettext("stopped"));
    if (info.finish_reason === "length") facts.push(gettext("stopped at the token limit"));
    if (info.usage) facts.push(fill(gettext("%(n)s tokens"), { n: number(info.usage.completion_tokens) }));
    if (info.timings) facts.push(seconds(info.timings.total));
    if (facts.length) parts.push(el("span", { className: "ml-2 tabular-nums" }, facts.join(" · ")));
    this.foot.replaceChildren(...parts);
    this.showNotes(info, state);
  }

  showNotes(info, state) {
    for (const note of this.element.querySelectorAll(".note")) note.remove();
    if (info.trimmed) {
      const text = ngettext("%(n)s earlier message was omitted because the conversation exceeds the model's context length.", "%(n)s earlier messages were omitted because the conversation exceeds the model's context length.", info.trimmed);
      (this.coloured ?? this.body).before(el("p", { className: "note mb-2 text-xs", dataset: { testid: "trimmed" } }, icon("circle-info"), fill(text, { n: info.trimmed })));
    }
    if (state === "failed" && info.error) {
      const words = el("p", { className: "min-w-0" }, el("code", { className: "code mr-1.5" }, info.error.code), info.error.message);
      this.foot.before(el("div", { className: "note note-bad mt-2", role: "alert", dataset: { testid: "message-error" } }, icon("circle-exclamation"), words));
    }
    if (info.unsaved) this.foot.before(el("div", { className: "note note-warn mt-2" }, icon("triangle-exclamation"), gettext("The database could not be reached, so this answer is not saved. Copy it to keep it.")));
  }

  /** A field in place of the text; `send(content)` with what was written. `text`: what it begins with. */
  edit(send, text = this.message.content) {
    const isAnswer = this.message.role === "assistant";
    const field = el("textarea", { className: "textarea", value: text, "aria-label": isAnswer ? gettext("Answer") : gettext("Message") });
    field.dataset.testid = "edit-text";
    const cancel = el("button", { type: "button", className: "btn btn-sm btn-quiet" }, gettext("Cancel"));
    const save = el("button", { type: "button", className: "btn btn-sm btn-primary", dataset: { testid: "edit-send" } }, isAnswer ? gettext("Save") : gettext("Send"));
    const hint = isAnswer ? el("p", { className: "hint mr-auto" }, gettext("The original is kept as a version.")) : null;
    const box = el("div", { className: "msg-edit" }, field, el("div", { className: "flex flex-wrap items-center justify-end gap-2" }, hint, cancel, save));
    this.colour(null);
    const close = () => {
      box.replaceWith(this.body);
      this.foot.hidden = false;
    };
    this.foot.hidden = true;
    this.body.replaceWith(box);
    field.focus();
    box.scrollIntoView({ block: "nearest" }); // with its buttons
    const done = () => {
      if (!field.value.trim()) return;
      close();
      send(field.value);
    };
    cancel.addEventListener("click", close);
    save.addEventListener("click", done);
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) done();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }
}
