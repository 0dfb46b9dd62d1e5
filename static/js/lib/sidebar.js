// The list of conversations: search, import, and what changes while one talks.
import { busy } from "./adapter.js";
import { get, post } from "./api.js";
import { BulkChats } from "./bulkchats.js";
import { showDate } from "./dates.js";
import { Folders } from "./folders.js";
import { $, $$, el, icon } from "./dom.js";
import { fill, gettext, ngettext } from "./i18n.js";
import { failed, toastLater } from "./toast.js";

const API = "/api/chat/conversations";
const PAGE = 100; // as the server lists at first

export class Sidebar {
  constructor(root, currentId) {
    this.list = $("[data-conversations]", root);
    this.none = $("[data-no-conversations]", root);
    this.currentId = currentId;
    this.more = $("[data-more-chats]", root);
    this.words = "";
    this.turn = 0; // of the newest list that was asked for
    this.pages = 1;
    this.more.addEventListener("click", () => this.older());
    const side = $("[data-side]", root);
    const toggle = $("[data-toggle-side]", root);
    toggle.addEventListener("click", () => toggle.setAttribute("aria-expanded", String(side.classList.toggle("is-open"))));
    $(".chat-main", root).addEventListener("click", (event) => {
      if (!toggle.contains(event.target)) side.classList.remove("is-open");
    });
    for (const time of $$("time", this.list)) showDate(time, time.dateTime); // the server knows no time zone of theirs
    new BulkChats(root, this.list, (gone) => (gone.includes(currentId()) ? location.assign("/chat") : this.refresh()));
    this.folders = new Folders($("[data-folders]", root), () => this.refresh());
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
    return get(`${API}?page_size=${PAGE}&page=${page}&search=${encodeURIComponent(words)}&folder=${encodeURIComponent(this.folders.chosen)}`);
  }

  /** The next page below what is listed; what has moved since stays where it is. */
  async older() {
    busy(this.more, true);
    const turn = this.turn;
    try {
      const found = await this.#fetch(this.words, this.pages + 1);
      if (turn !== this.turn) return;
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

  /** The list anew, with the words that are searched for. */
  refresh() {
    return this.search(this.words);
  }

  async search(words) {
    this.words = words;
    const turn = ++this.turn;
    try {
      const found = await this.#fetch(words, 1);
      if (turn !== this.turn) return;
      this.pages = 1;
      this.more.hidden = !found.next;
      this.list.replaceChildren(...found.results.map((item) => this.#entry(item)));
      this.none.hidden = found.count > 0;
      this.none.textContent = words || this.folders.chosen ? gettext("Nothing matches.") : gettext("No conversations yet.");
    } catch (error) {
      failed(error);
    }
  }

  async take(file) {
    try {
      const text = await file.text();
      const isMarkdown = /\.(md|markdown)$/i.test(file.name) || file.type === "text/markdown";
      const made = await post("/api/chat/import", isMarkdown ? { markdown: text } : JSON.parse(text));
      if (made.imported > 1) toastLater("good", fill(ngettext("%(n)s conversation imported", "%(n)s conversations imported", made.imported), { n: made.imported }));
      location.assign(`/chat/${made.id}`);
    } catch (error) {
      failed(error instanceof SyntaxError ? { message: gettext("This file is neither JSON nor Markdown."), code: "malformed_json" } : error, gettext("Import failed"));
    }
  }

  /** Show a conversation as it is now; a new one comes on top, below those that are pinned. */
  put(conversation) {
    const fresh = this.#entry(conversation);
    const shown = $$("a", this.list).find((one) => one.dataset.id === String(conversation.id));
    for (const one of $$("[aria-current]", this.list)) if (one !== shown) one.removeAttribute("aria-current");
    const link = $("a", fresh);
    link.setAttribute("aria-current", "page");
    if (!shown) {
      const below = $$("li", this.list).find((one) => !$(".fa-thumbtack", one));
      if (below) below.before(fresh);
      else this.list.append(fresh);
    } else {
      shown.setAttribute("aria-current", "page");
      const name = conversation.title || $("[data-name]", shown).textContent; // an assistant's
      $("[data-name]", link).textContent = name;
      const snippet = $("[data-snippet]", shown);
      shown.replaceChildren(...link.childNodes, ...(snippet ? [snippet] : []));
    }
    this.none.hidden = true;
  }

  #entry(item) {
    const link = el("a", { className: "conversation", href: `/chat/${item.id}`, dataset: { id: item.id } });
    const time = el("time", { className: "conversation-date" });
    showDate(time, item.updated_at);
    if (item.pinned) link.append(icon("thumbtack"), el("span", { className: "sr-only" }, gettext("Pinned")));
    link.append(el("span", { className: "conversation-name", dataset: { name: "" } }, item.title || gettext("New chat")), time);
    if (item.snippet) {
      const { before, match, after } = item.snippet;
      link.append(el("span", { className: "conversation-snippet", dataset: { snippet: "", testid: "snippet" } }, before, el("mark", {}, match), after));
    }
    if (item.id === this.currentId()) link.setAttribute("aria-current", "page");
    return el("li", {}, link);
  }
}
