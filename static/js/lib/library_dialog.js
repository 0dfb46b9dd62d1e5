// The dialogs of the prompt library: choosing an entry, and saving one.
import { busy } from "./adapter.js";
import { get, post, request } from "./api.js";
import { el, icon } from "./dom.js";
import { fill, gettext, ngettext, number } from "./i18n.js";
import { paramsLine, partNames } from "./library_parts.js";
import { SearchDialog } from "./search_dialog.js";
import { toast } from "./toast.js";

const SEARCH_AFTER_MS = 150;
const MOST_NAME = 80;
const SUGGESTED = 60; // characters of a name that is made of a text

// Choosing ---------------------------------------------------------------------------------------------------------

class LibraryDialog extends SearchDialog {
  #turn = 0;
  #isBehind = false; // the list answers other words than those that are typed
  #parts = [];
  #take = null;

  constructor() {
    const manage = el("a", { className: "btn btn-quiet btn-sm", href: "/prompts", dataset: { testid: "library-manage" } }, icon("book-bookmark"), gettext("Manage prompts"));
    const close = el("button", { type: "button", className: "btn btn-quiet btn-sm", dataset: { closes: "" } }, gettext("Close"));
    super({ title: gettext("Insert from the prompt library"), placeholder: gettext("Search saved prompts"), testid: "library", list: gettext("Saved prompts"), after: SEARCH_AFTER_MS, foot: [manage, close] });
  }

  openFor(parts, take) {
    this.#parts = parts;
    this.#take = take;
    this.list.show([]);
    this.note.textContent = gettext("Loading…");
    this.open();
  }

  choose(entry) {
    this.dialog.close();
    this.#take(entry.id);
  }

  typed() {
    this.#isBehind = true;
    this.#turn++; // what was asked for other words is no answer any more
  }

  takeKey(event) {
    if (!this.#isBehind || event.key !== "Enter" || event.isComposing) return super.takeKey(event);
    event.preventDefault();
    this.#chooseFound();
    return true;
  }

  async #chooseFound() {
    await this.searchNow();
    if (this.dialog.open && !this.#isBehind && this.list.active) this.choose(this.list.active);
  }

  async search() {
    const turn = ++this.#turn;
    const { words } = this;
    try {
      const found = await get(`/api/prompts?search=${encodeURIComponent(words)}&part=${this.#parts.join(",")}`);
      if (turn === this.#turn) this.#show(found, words);
    } catch (error) {
      if (turn !== this.#turn) return;
      this.#isBehind = false;
      this.list.show([]);
      this.note.textContent = error.message;
    }
  }

  #show({ results, count }, words) {
    this.#isBehind = false;
    const items = results.map((entry) => ({ ...entry, content: contentOf(entry), data: { testid: "library-item", id: entry.id } }));
    const groups = [
      { title: gettext("Mine"), items: items.filter(({ mine }) => mine) },
      { title: gettext("Shared by others"), items: items.filter(({ mine }) => !mine) },
    ];
    this.list.show(groups, (item) => item === items[0]);
    if (count > results.length) this.note.textContent = fill(gettext("%(n)s of %(all)s saved prompts; type to find the others."), { n: number(results.length), all: number(count) });
    else if (count) this.note.textContent = fill(ngettext("%(n)s saved prompt. Enter inserts it.", "%(n)s saved prompts. Enter inserts the marked one.", count), { n: number(count) });
    else this.note.textContent = words ? gettext("Nothing matches.") : gettext("There is nothing to insert here yet. Save a prompt or parameters with the button next to this one.");
  }
}

function contentOf({ name, parts, preview, params, owner, mine }) {
  const names = partNames();
  const tags = parts.map((part) => el("span", { className: "tag" }, names[part]));
  const facts = [mine ? "" : fill(gettext("by %(name)s"), { name: owner }), preview.replace(/\s+/g, " ") || paramsLine(params)].filter(Boolean).join(" · ");
  return [el("span", { className: "flex min-w-0 flex-1 flex-wrap items-center gap-x-2 gap-y-1" }, el("span", { className: "truncate" }, name), ...tags), el("span", { className: "listbox-facts basis-full" }, facts)];
}

let choosing = null;

export function chooseEntry(parts, take) {
  choosing ??= new LibraryDialog();
  choosing.openFor(parts, take);
}

// Saving -----------------------------------------------------------------------------------------------------------

function option(title, hint, testid, properties = {}) {
  const box = el("input", { className: "checkbox mt-0.5", type: "checkbox", dataset: { testid }, ...properties });
  const words = el("span", { className: "min-w-0" }, el("span", { className: "block text-sm font-medium" }, title), ...(hint ? [el("span", { className: "hint block truncate" }, hint)] : []));
  return { box, row: el("label", { className: "flex gap-2.5" }, box, words) };
}

const firstLine = (text) => text.trim().split("\n")[0].slice(0, SUGGESTED);

/** `held`: {system, prompt, params} of the place; `last`: one's own entry that it came from; `saved(entry)` after it. */
export function saveEntry(held, last, saved) {
  const isEmpty = (part) => (part === "params" ? !Object.keys(held.params).length : !held[part]?.trim());
  const names = partNames();
  const there = Object.keys(names).filter((part) => !isEmpty(part));
  if (!there.length) return toast("info", gettext("There is nothing to save yet."), gettext("Enter a system prompt, a prompt or parameters."));
  const parts = there.map((part) => ({ part, ...option(names[part], part === "params" ? paramsLine(held.params) : firstLine(held[part]), `library-part-${part}`, { checked: true }) }));
  const name = el("input", { className: "input", id: "library-name", maxLength: MOST_NAME, required: true, value: last?.name ?? firstLine(held.system || held.prompt || ""), dataset: { testid: "library-name" } });
  const replaces = last && option(fill(gettext("Replace “%(name)s”"), { name: last.name }), gettext("Otherwise a new entry is made."), "library-replace");
  const shared = option(gettext("Shared"), gettext("Everybody who can sign in can use it; only you can edit it."), "library-shared", { checked: Boolean(last?.shared) });
  const problem = el("p", { className: "field-error", role: "alert", hidden: true, dataset: { testid: "library-error" } });
  const button = el("button", { className: "btn btn-primary", dataset: { testid: "library-save-done" } }, gettext("Save"));
  const cancel = el("button", { type: "button", className: "btn btn-quiet", dataset: { closes: "" } }, gettext("Cancel"));
  const form = el("form", { noValidate: true },
    el("div", { className: "flex flex-col gap-4 p-5" },
      el("h2", { id: "library-save-title" }, gettext("Save to the prompt library")),
      el("div", { className: "field" }, el("label", { className: "label", htmlFor: "library-name" }, gettext("Name")), name),
      el("fieldset", { className: "field" }, el("legend", { className: "label mb-1.5" }, gettext("What to save")), el("div", { className: "flex flex-col gap-2.5" }, ...parts.map(({ row }) => row))),
      ...(replaces ? [replaces.row] : []), shared.row, problem),
    el("div", { className: "dialog-foot" }, cancel, button));
  const dialog = el("dialog", { className: "dialog", "aria-labelledby": "library-save-title", dataset: { testid: "library-save" } }, form);
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // the page's own keys rest
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    const chosen = parts.filter(({ box }) => box.checked).map(({ part }) => [part, held[part]]);
    const entry = { name: name.value, shared: shared.box.checked, ...Object.fromEntries(chosen) };
    const isReplaced = replaces?.box.checked;
    problem.hidden = true;
    busy(button, true);
    try {
      saved(await (isReplaced ? request("PATCH", `/api/prompts/${last.id}`, entry) : post("/api/prompts", entry)));
      dialog.close();
      toast("good", gettext("Saved to the prompt library"), entry.name.trim());
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      if (error.param === "name") name.focus();
    } finally {
      busy(button, false);
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  name.select();
}
