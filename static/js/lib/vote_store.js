// Votes on comparisons, stored on the server. What could not be stored is kept, said, and tried again.
import { request } from "./api.js";
import { el, icon } from "./dom.js";
import { fill, gettext, ngettext } from "./i18n.js";

const URL_OF = (run) => `/api/compare/votes/${run}`;

/** A random UUID; `crypto.randomUUID` is missing where a portal is served by plain HTTP. */
export function newRun() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

export class VoteStore {
  #waiting = new Map(); // run -> vote, not stored yet
  #saving = null;
  #seen = false;
  #current = null; // the run that the page shows

  /** `line` tells how storing goes; `counted(made)` is called for each stored vote. */
  constructor(line, counted) {
    this.line = line;
    this.counted = counted;
    addEventListener("online", () => this.save());
    addEventListener("beforeunload", (event) => this.#waiting.size && event.preventDefault());
  }

  /** Another comparison: nothing is shown of the one before, except that its vote is not stored. */
  begin(run) {
    this.#current = run;
    this.#seen = false;
    if (!this.#waiting.size) this.#say("");
  }

  /** `seen`: the names were known, though the comparison was blind. */
  cast(run, vote, seen = false) {
    this.#waiting.set(run, vote);
    this.#seen = seen;
    return this.save();
  }

  /** Resolves when what waits now has been tried; true where nothing is left. */
  save() {
    this.#saving ??= this.#saveAll().finally(() => (this.#saving = null));
    return this.#saving;
  }

  async #saveAll() {
    const failed = new Map();
    let stored = null;
    this.#say("saving");
    for (let next; (next = [...this.#waiting].find(([run, vote]) => failed.get(run)?.vote !== vote)); ) {
      const [run, vote] = next;
      try {
        stored = await request("PUT", URL_OF(run), vote);
        if (this.#waiting.get(run) === vote) this.#waiting.delete(run);
        this.counted(stored);
        this.#seen ||= vote.blind && !stored.blind;
      } catch (error) {
        failed.set(run, { vote, error });
      }
    }
    if (this.#waiting.size) {
      const { message } = [...failed.values()].at(-1).error;
      this.#say("failed", message);
      this.line.scrollIntoView({ block: "nearest" });
    } else this.#say(stored?.run === this.#current ? "saved" : "");
    return !this.#waiting.size;
  }

  #say(state, message = "") {
    this.line.dataset.state = state;
    const words = {
      "": [],
      saving: [gettext("Saving…")],
      saved: [icon("check"), this.#seen ? gettext("Saved as a non-blind vote because the names had already been shown.") : gettext("Saved")],
      failed: [icon("circle-exclamation"), this.#problem(message)],
    };
    const retry = el("button", { type: "button", className: "btn btn-sm", dataset: { retryVotes: "", testid: "vote-retry" } }, icon("rotate-right"), gettext("Try again"));
    if (state === "failed") retry.addEventListener("click", () => this.save());
    this.line.replaceChildren(...words[state], ...(state === "failed" ? [retry] : []));
  }

  #problem(message) {
    const n = this.#waiting.size;
    const text = ngettext("Your choice is not saved: %(message)s", "%(n)s choices are not saved: %(message)s", n);
    return el("span", { className: "min-w-0" }, fill(text, { n, message }));
  }
}
