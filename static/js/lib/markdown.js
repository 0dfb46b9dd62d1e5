// Markdown in the page, drawn again and again as it grows. Nothing in a text can become markup of its own.
import { copyText } from "./clipboard.js";
import { $$, icon } from "./dom.js";
import { gettext } from "./i18n.js";
import { Blocks } from "./markdown/blocks.js";
import { partReasoning } from "./markdown/reasoning.js";
import { made, node, patch } from "./nodes.js";
import { toast } from "./toast.js";

// Signs that begin a block: alone at the text's end they may yet become a list, a heading, a rule or a table.
const BEGUN_BLOCK = /(?:^|\n)[ \t>]*(?:[-*+=_#|`~:]+|\d{1,9}[.)]?)[ \t]*$/;

/** Shows Markdown in `element`; call `show` again as the text grows. */
export class MarkdownView {
  #text = "";
  #live = false;
  #shown = [];
  #answer = new Blocks(() => this.#draw());
  #thoughts = new Blocks(() => this.#draw());

  constructor(element) {
    this.element = element;
    element.classList.add("md");
    element.addEventListener("click", async ({ target }) => {
      const block = target.closest("[data-copy-code]")?.closest(".md-code");
      if (block && (await copyText(block.querySelector("code").textContent))) toast("good", gettext("Copied"));
    });
  }

  /** `live`: more is to come. What the next words may turn into something else is left out until they are there. */
  show(text, live = false) {
    this.#text = text;
    this.#live = live;
    this.#draw();
  }

  #draw() {
    const { thoughts, isOpen, answer } = partReasoning(this.#text, this.#live);
    const wanted = this.#answer.elements(this.#live ? answer.replace(BEGUN_BLOCK, "") : answer);
    if (thoughts || (isOpen && this.#live)) wanted.unshift(this.#reasoning(thoughts, isOpen));
    patch(this.element, this.#shown, wanted);
    this.#shown = wanted;
    // The thoughts are all that there is of this answer.
    if (isOpen && !this.#live && thoughts) this.element.firstChild.open = true;
  }

  /** Folded, also while it is written: the answer is what people wait for, and nothing moves when it comes. */
  #reasoning(thoughts, isOpen) {
    const isWritten = isOpen && this.#live;
    const words = isWritten ? gettext("Thinking…") : isOpen ? gettext("Reasoning, cut off") : gettext("Reasoning");
    const spinner = isWritten ? [node("span", { className: "spinner size-3.5!" })] : [];
    const summary = node("summary", { "data-testid": "reasoning" }, made("fold", () => icon("chevron-right")), words, spinner);
    const text = node("div", { className: "md-think-text" }, this.#thoughts.elements(thoughts));
    return node("details", { className: "md-think" }, summary, text);
  }
}

/** Texts that the server has written into the page as they are: `data-markdown`. */
export function drawMarkdown() {
  for (const body of $$("[data-markdown]")) {
    const text = body.textContent;
    body.replaceChildren();
    body.classList.remove("whitespace-pre-wrap");
    new MarkdownView(body).show(text);
  }
}
