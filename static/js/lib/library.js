// Where saved prompts are used: a button that inserts one into the fields of a place, and one that saves what they hold.
// The dialogs come when they are wanted.
import { get } from "./api.js";
import { $$ } from "./dom.js";
import { fill, gettext } from "./i18n.js";
import { failed, toast } from "./toast.js";

const MOST_UNDONE = 20_000; // characters; browsers take their time to make a longer insertion one that can be undone

/** Put `text` in the place of what the field holds, so that the browser's own undo brings that back. */
export function write(field, text) {
  const folded = field.closest("details");
  if (folded) folded.open = true;
  field.focus();
  field.select();
  const isReached = document.activeElement === field; // not in a dialog that is closed
  if (text.length > MOST_UNDONE || !isReached || !document.execCommand("insertText", false, text)) {
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
}

export class Library {
  #last = null; // one's own entry that was inserted here last

  /**
   * `texts`: {system, prompt} -> field, those that the place has; `parameters`: its Parameters, if it has them;
   * `inserted()` is called after an entry was put in. The buttons are those in `root`.
   */
  constructor(root, { texts = {}, parameters = null, inserted = () => {} }) {
    Object.assign(this, { texts, parameters, inserted });
    this.parts = [...Object.keys(texts), ...(parameters ? ["params"] : [])];
    for (const button of $$("[data-library-insert]", root)) button.addEventListener("click", () => this.#choose());
    for (const button of $$("[data-library-save]", root)) button.addEventListener("click", () => this.#save());
  }

  async #choose() {
    const { chooseEntry } = await import("./library_dialog.js");
    chooseEntry(this.parts, (id) => this.insert(id));
  }

  async insert(id) {
    try {
      this.#put(await get(`/api/prompts/${id}`));
    } catch (error) {
      failed(error, gettext("Not inserted"));
    }
  }

  #put(entry) {
    const left = this.parameters?.missing(entry.params) ?? [];
    const written = Object.entries(this.texts).filter(([part]) => entry[part]);
    for (const [part, field] of written) write(field, entry[part]);
    this.parameters?.fill(entry.params);
    this.#last = entry.mine ? entry : null;
    this.inserted();
    toast("good", fill(gettext("“%(name)s” inserted"), { name: entry.name }), left.length ? fill(gettext("Not available here: %(names)s"), { names: left.join(", ") }) : "");
  }

  async #save() {
    const params = this.parameters ? this.parameters.read() : {};
    if (!params) return toast("bad", gettext("Not saved"), gettext("Correct the parameters first."));
    const texts = Object.entries(this.texts).map(([part, field]) => [part, field.value]);
    const held = Object.fromEntries([...texts, ["params", params]]);
    const { saveEntry } = await import("./library_dialog.js");
    saveEntry(held, this.#last, (entry) => (this.#last = entry));
  }

  /** Insert the entry that the page's address names, as the library's own page links to it. */
  async insertLinked() {
    const address = new URL(location.href);
    const id = address.searchParams.get("saved");
    if (!id) return;
    address.searchParams.delete("saved");
    history.replaceState(null, "", address); // a reload keeps what was written meanwhile
    if (/^\d{1,18}$/.test(id)) await this.insert(id);
  }
}
