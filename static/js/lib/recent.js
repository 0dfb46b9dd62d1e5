// The prompts that a person sent from Test and Compare last. The server keeps none of them: they lie in this browser, for
// this account, until they are cleared or the account signs out here (app.js).
import { showDate } from "./dates.js";
import { el, icon } from "./dom.js";
import { fill, gettext, ngettext, number } from "./i18n.js";
import { write } from "./library.js";
import { SearchDialog } from "./search_dialog.js";
import { toast } from "./toast.js";

const MOST = 50;
const MOST_CHARS = 200_000; // of all of them together
const SHOWN = 200; // characters of one in the list

const key = () => `recent-prompts-${document.documentElement.dataset.user}`;

/** [{text, at}], the newest first; what something else has put there is passed over. */
export function recentPrompts() {
  try {
    const kept = JSON.parse(localStorage.getItem(key()) ?? "[]");
    return kept.filter(({ text, at }) => typeof text === "string" && Number.isFinite(at)).slice(0, MOST);
  } catch {
    return [];
  }
}

/** Keep `text` as the newest; the oldest make room. */
export function rememberPrompt(text) {
  let room = MOST_CHARS;
  const all = [{ text, at: Date.now() }, ...recentPrompts().filter((one) => one.text !== text)].slice(0, MOST);
  const kept = all.filter((one) => (room -= one.text.length) >= 0);
  try {
    localStorage.setItem(key(), JSON.stringify(kept));
  } catch {
    // Without room or permission the prompt is sent all the same.
  }
}

const forgetPrompts = () => localStorage.removeItem(key());

class RecentDialog extends SearchDialog {
  #all = [];

  constructor(take) {
    const clear = el("button", { type: "button", className: "btn btn-quiet btn-sm is-danger mr-auto", dataset: { testid: "recent-clear" } }, icon("trash-can"), gettext("Clear recent prompts"));
    const close = el("button", { type: "button", className: "btn btn-quiet btn-sm", dataset: { closes: "" } }, gettext("Close"));
    super({ title: gettext("Recent prompts"), placeholder: gettext("Search recent prompts"), testid: "recent", list: gettext("Recent prompts"), foot: [clear, close] });
    this.take = take;
    this.clear = clear;
    clear.addEventListener("click", () => {
      forgetPrompts();
      this.dialog.close();
      toast("good", gettext("The recent prompts were cleared"));
    });
  }

  open() {
    this.#all = recentPrompts();
    this.clear.disabled = !this.#all.length;
    super.open();
  }

  choose({ text }) {
    this.dialog.close();
    this.take(text);
  }

  typed() {
    const words = this.words.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.#all.filter(({ text }) => words.every((word) => text.toLowerCase().includes(word)));
    const items = found.map((one) => ({ ...one, content: contentOf(one), data: { testid: "recent-item" } }));
    this.list.show([{ title: "", items }], (item) => item === items[0]);
    if (found.length) this.note.textContent = fill(ngettext("%(n)s prompt, kept only in this browser until you sign out", "%(n)s prompts, kept only in this browser until you sign out", found.length), { n: number(found.length) });
    else this.note.textContent = words.length ? gettext("Nothing matches.") : gettext("Prompts that you send from Test and Compare are listed here. They are kept only in this browser, until you sign out.");
  }
}

function contentOf({ text, at }) {
  const time = el("time", { className: "listbox-facts" });
  showDate(time, new Date(at).toISOString());
  return [el("span", { className: "min-w-0 flex-1 truncate" }, text.slice(0, SHOWN).replace(/\s+/g, " ").trim()), time];
}

/** `button` opens the list, and so does the key that goes up where the cursor of `field` stands at its very beginning. */
export function offersRecent(field, button) {
  let dialog = null;
  const open = () => (dialog ??= new RecentDialog((text) => write(field, text))).open();
  button.addEventListener("click", open);
  field.addEventListener("keydown", (event) => {
    const isPlain = !event.shiftKey && !event.altKey && !event.ctrlKey && !event.metaKey && !event.isComposing;
    if (event.key !== "ArrowUp" || !isPlain || field.selectionEnd !== 0) return;
    event.preventDefault();
    open();
  });
}
