// The list of conversations: search, import, and what changes while one talks.
import { busy } from "./adapter.js";
import { get, post } from "./api.js";
import { $, $$, el } from "./dom.js";
import { gettext } from "./i18n.js";
import { failed } from "./toast.js";

const API = "/api/chat/conversations";
const PAGE = 100; // as the server lists at first

export class Sidebar {
  constructor(root, currentId) {
    this.list = $("[data-conversations]", root);
    this.none = $("[data-no-conversations]", root);
    this.currentId = currentId;
    this.more = $("[data-more-chats]", root);
    this.words = "";
    this.pages = 1;
    this.more.addEventListener("click", () => this.older());
    const side = $("[data-side]", root);
    const toggle = $("[data-toggle-side]", root);
    toggle.addEventListener("click", () => toggle.setAttribute("aria-expanded", String(side.classList.toggle("is-open"))));
    $(".chat-main", root).addEventListener("click", (event) => {
      if (!toggle.contains(event.target)) side.classList.remove("is-open");
    });
    let timer;
    $("[data-search-chats]", root).addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(() => this.search(event.target.value.trim()), 250);
    });
    const file = $("[data-import-file]", root);
    $("[data-import]", root).addEventListener("click", () => file.click());
    file.addEventListener("change", () => file.files.length && this.take(file.files[0]));
  }

  #fetch(words, page) {
    return get(`${API}?page_size=${PAGE}&page=${page}&search=${encodeURIComponent(words)}`);
  }

  /** The next page below what is listed; what has moved since stays where it is. */
  async older() {
    busy(this.more, true);
    const words = this.words;
    try {
      const found = await this.#fetch(words, this.pages + 1);
      if (words !== this.words) return;
      this.pages++;
      const listed = new Set($$("a", this.list).map((one) => one.dataset.id));
      const fresh = found.results.filter((item) => !listed.has(String(item.id))).map((item) => this.#entry(item));
      this.list.append(...fresh);
      this.more.hidden = !found.next;
      $("a", fresh[0] ?? this.list)?.focus();
    } catch (error) {
      failed(error);
    } finally {
      busy(this.more, false);
    }
  }

  async search(words) {
    this.words = words;
    try {
      const found = await this.#fetch(words, 1);
      if (words !== this.words) return;
      this.pages = 1;
      this.more.hidden = !found.next;
      this.list.replaceChildren(...found.results.map((item) => this.#entry(item)));
      this.none.hidden = found.count > 0;
      this.none.textContent = words ? gettext("Nothing matches.") : gettext("No conversations yet.");
    } catch (error) {
      failed(error);
    }
  }

  async take(file) {
    try {
      const text = await file.text();
      const isMarkdown = /\.(md|markdown)$/i.test(file.name) || file.type === "text/markdown";
      const made = await post("/api/chat/import", isMarkdown ? { markdown: text } : JSON.parse(text));
      location.assign(`/chat/${made.id}`);
    } catch (error) {
      failed(error instanceof SyntaxError ? { message: gettext("This file is neither JSON nor Markdown."), code: "malformed_json" } : error, gettext("Not imported"));
    }
  }

  /** Show a conversation with its present title; a new one comes on top. */
  put(conversation) {
    let link = $$("a", this.list).find((one) => one.dataset.id === String(conversation.id));
    if (!link) {
      this.list.prepend(this.#entry(conversation));
      link = $("a", this.list);
    }
    link.textContent = conversation.title || "…";
    for (const one of $$("a", this.list)) {
      if (one === link) one.setAttribute("aria-current", "page");
      else one.removeAttribute("aria-current");
    }
    this.none.hidden = true;
  }

  #entry(item) {
    const link = el("a", { className: "conversation", href: `/chat/${item.id}`, dataset: { id: item.id } }, item.title || "…");
    if (item.id === this.currentId()) link.setAttribute("aria-current", "page");
    return el("li", {}, link);
  }
}
