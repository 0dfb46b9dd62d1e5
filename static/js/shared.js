// A shared conversation: the answers' Markdown is drawn.
import { $$ } from "./lib/dom.js";
import { MarkdownView } from "./lib/markdown.js";

for (const body of $$("[data-markdown]")) {
  const text = body.textContent;
  body.replaceChildren();
  body.classList.remove("whitespace-pre-wrap");
  new MarkdownView(body).show(text);
}
document.documentElement.dataset.ready = "true";
