// The command palette: pages and actions at once, models and chats as the server finds them. Loaded when it is asked for.
import { get } from "./api.js";
import { $, $$, cutName, el, icon } from "./dom.js";
import { fill, gettext } from "./i18n.js";
import { openKeys } from "./keys.js";
import { scan } from "./scan.js";
import { SearchDialog } from "./search_dialog.js";
import { setTheme, theme, THEMES, themeNames } from "./theme.js";

const SEARCH_AFTER_MS = 150;
const FEW = 6; // of models and of chats

const STATES = { discovered: () => gettext("Discovered"), failed: () => gettext("Failed") };

function item(key, sign, title, more = {}) {
  const note = more.note ? el("span", { className: "listbox-facts" }, more.note) : null;
  const name = el("span", { className: "flex min-w-0 flex-1 items-center gap-2.5" }, icon(sign), more.cut ? cutName(title) : el("span", { className: "truncate" }, title));
  return { key, title, content: [name, ...(note ? [note] : [])], data: { testid: "palette-item", key }, ...more };
}

/** The pages that the top of this page leads to. */
function pages() {
  const links = $$(".topbar .nav a, .topbar [data-menu] a").filter((link) => link.origin === location.origin);
  const found = new Map(links.map((link) => [link.pathname, link]));
  return [...found.values()].map((link) => item(link.pathname, signOf(link), link.textContent.trim(), { href: link.pathname }));
}

const signOf = (link) => $("use", link)?.getAttribute("href").split("#").at(-1) ?? "arrow-right";

function actions(operator) {
  const found = [item("new-chat", "comments", gettext("New chat"), { href: "/chat" }), item("new-assistant", "robot", gettext("New assistant"), { href: "/assistants/new" })];
  if (operator) found.push(item("scan", "arrows-rotate", gettext("Scan for adapters"), { run: () => $("[data-scan]")?.click() ?? scan() }));
  const signs = { "": "circle-half-stroke", light: "sun", dark: "moon" };
  for (const one of THEMES.filter((other) => other !== theme())) found.push(item(`theme-${one}`, signs[one], themeNames()[one], { run: () => setTheme(one) }));
  const language = $('.topbar [name="language"]');
  if (language) found.push(item("language", "language", language.getAttribute("aria-label"), { run: () => language.click() }));
  found.push(item("keys", "keyboard", gettext("Keyboard shortcuts"), { run: openKeys }));
  const leave = $('[data-testid="logout"]');
  if (leave) found.push(item("sign-out", "right-from-bracket", leave.textContent.trim(), { run: () => leave.click() }));
  return found;
}

function models(found) {
  const rows = [];
  for (const one of found) {
    const state = STATES[one.status]?.();
    rows.push(item(`model-${one.id}`, "layer-group", one.name, { href: `/models/${one.id}`, cut: true, note: [one.base?.name ?? one.base_name, state].filter(Boolean).join(" · ") }));
    if (one.status !== "active" || rows.length > 1) continue; // for the first, what one most likely wants of it
    rows.push(item(`test-${one.id}`, "vial", fill(gettext("Test %(name)s"), { name: one.name }), { href: `/test?model=${encodeURIComponent(one.slug)}` }));
    rows.push(item(`chat-${one.id}`, "comments", fill(gettext("Chat with %(name)s"), { name: one.name }), { href: `/chat?model=${encodeURIComponent(one.slug)}` }));
  }
  return rows;
}

const chats = (found) => found.map((one) => item(`talk-${one.id}`, "comments", one.title || gettext("New chat"), { href: `/chat/${one.id}` }));

class Palette extends SearchDialog {
  #turn = 0;
  #found = { words: "", models: [], chats: [] };

  constructor(operator) {
    super({ title: gettext("Search and commands"), placeholder: gettext("Search models, chats, pages and actions"), testid: "palette", list: gettext("Results"), after: SEARCH_AFTER_MS });
    this.operator = operator;
  }

  takeKey(event) {
    if (super.takeKey(event) || event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    this.dialog.close();
  }

  open() {
    this.#found = { words: "", models: [], chats: [] };
    super.open();
  }

  choose(chosen, event) {
    const aside = chosen.href && (event.ctrlKey || event.metaKey);
    if (aside) return window.open(chosen.href, "_blank", "noopener");
    this.dialog.close();
    if (chosen.href) location.assign(chosen.href);
    else chosen.run();
  }

  async search() {
    const turn = ++this.#turn;
    const { words } = this;
    const query = encodeURIComponent(words);
    const ordering = words ? "name" : "-last_used_at&status=active";
    const asked = [get(`/api/lora/models?search=${query}&page_size=${FEW}&ordering=${ordering}`), get(`/api/chat/conversations?search=${query}&page_size=${FEW}`)];
    const [ofModels, ofChats] = await Promise.allSettled(asked);
    if (turn !== this.#turn || !this.dialog.open) return;
    this.#found = { words, models: models(ofModels.value?.results ?? []), chats: chats(ofChats.value?.results ?? []) };
    this.typed();
    const failure = [ofModels, ofChats].find((one) => one.status === "rejected");
    if (failure) this.note.textContent = failure.reason.message;
  }

  /** What fits the words: what the page knows stays above what the server finds, so that nothing jumps. */
  typed() {
    const words = this.field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = ({ title }) => words.every((word) => title.toLowerCase().includes(word));
    // What was found for other words is kept only where it fits these, until the server has answered.
    const isFresh = this.#found.words === this.words;
    const found = (items) => (isFresh ? items : items.filter(fits));
    const before = this.list.active?.key;
    const groups = [
      { title: gettext("Pages"), items: pages().filter(fits) },
      { title: gettext("Actions"), items: actions(this.operator).filter(fits) },
      { title: gettext("Models"), items: found(this.#found.models) },
      { title: gettext("Chats"), items: found(this.#found.chats) },
    ];
    const all = groups.flatMap(({ items }) => items);
    const marked = all.find(({ key }) => key === before) ?? all[0];
    this.list.show(groups, (one) => one === marked);
    this.note.textContent = all.length ? gettext("Enter opens, Esc closes.") : gettext("Nothing matches.");
  }
}

let palette = null;

export function openPalette(operator) {
  palette ??= new Palette(operator);
  palette.open();
}
