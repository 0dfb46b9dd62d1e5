// The tokens of an answer over its text, coloured by their probability; what else was likely is shown on demand.
import { el, icon } from "./dom.js";
import { fill, gettext, ngettext, percent } from "./i18n.js";

export const ALTERNATIVES = 5; // to each token, where probabilities are asked for
const REPLACEMENT = "\ufffd"; // what a part of a character looks like alone
const LONGEST = 24; // characters that a token without a text of its own may stand for
const STEPS = [0.9, 0.6, 0.3, 0.1]; // from here on: hardly coloured ... strongly coloured

/**
 * `text` cut into segments {text, tokens}; joined they are `text`. Tokens that are parts of one character, or whose
 * own text is not what they became in the answer, share a segment.
 */
export function segments(text, tokens) {
  const found = [];
  let at = 0;
  let waiting = [];
  const close = (end) => {
    if (end > at) found.push({ text: text.slice(at, end), tokens: waiting });
    at = end;
    waiting = [];
  };
  for (const token of tokens) {
    const place = placeOf(token.token, text, at, waiting);
    if (place === null) {
      waiting.push(token);
      continue;
    }
    close(place);
    waiting = [token];
    close(place + lengthAt(token.token, text, place));
  }
  close(text.length);
  return wholeCharacters(text, found);
}

/** Where the token begins in `text`, from `at` on; further on only past tokens that wait for their text. */
function placeOf(shown, text, at, waiting) {
  if (!shown || shown.includes(REPLACEMENT)) return null;
  const first = at + (waiting.some((token) => token.token) ? 1 : 0);
  for (let start = first; start <= at + LONGEST * waiting.length; start++) if (lengthAt(shown, text, start)) return start;
  return null;
}

/** Some tokenizers show a token alone without the space that it has in a text. */
function lengthAt(shown, text, start) {
  if (text.startsWith(shown, start)) return shown.length;
  return /\s/.test(text[start] ?? "") && text.startsWith(shown, start + 1) ? shown.length + 1 : 0;
}

/** No segment ends within what people see as one character. */
function wholeCharacters(text, found) {
  const starts = new Set([...new Intl.Segmenter().segment(text)].map(({ index }) => index));
  const whole = [];
  let at = 0;
  for (const segment of found) {
    if (at === 0 || starts.has(at)) whole.push(segment);
    else {
      const last = whole.at(-1);
      whole[whole.length - 1] = { text: last.text + segment.text, tokens: [...last.tokens, ...segment.tokens] };
    }
    at += segment.text.length;
  }
  return whole;
}

const probability = (list) => Math.exp(list.reduce((sum, token) => sum + token.logprob, 0));
const stepOf = (share) => STEPS.findIndex((least) => share >= least);
const chance = (share) => percent(share, share < 0.1 ? 1 : 0);
const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";

/** Colours answers inside `root` and explains the token that has the focus or the pointer. */
export class TokenColours {
  #segments = new WeakMap();
  #shown = null;

  constructor(root) {
    this.tip = el("div", { className: "token-tip", id: "token-tip", role: "tooltip", hidden: true, dataset: { testid: "token-tip" } });
    root.append(this.tip);
    root.addEventListener("focusin", (event) => this.#open(event.target.closest(".token")));
    root.addEventListener("focusout", () => this.#close());
    root.addEventListener("pointerover", (event) => {
      const token = event.target.closest(".token");
      if (token) this.#open(token);
      else if (!this.#shown?.matches(":focus")) this.#close();
    });
    root.addEventListener("keydown", (event) => this.#move(event));
    // Moving the focus scrolls the page; the pointer's token is no longer under it then.
    addEventListener("scroll", () => (this.#shown?.matches(":focus") ? this.#place() : this.#close()), { capture: true, passive: true });
  }

  /** Show `text` in `output`, a span a segment. */
  draw(output, text, tokens) {
    this.#close();
    const spans = segments(text, tokens).map((segment) => {
      if (!segment.tokens.length) return segment.text;
      const step = stepOf(probability(segment.tokens));
      const span = el("span", { className: `token token-${step < 0 ? STEPS.length : step}`, tabIndex: -1, dataset: { testid: "token" } }, segment.text);
      this.#segments.set(span, segment);
      return span;
    });
    output.replaceChildren(...spans);
    const first = output.querySelector(".token");
    if (first) first.tabIndex = 0;
  }

  #move(event) {
    const token = event.target.closest(".token");
    if (!token) return;
    if (event.key === "Escape") this.#close();
    const all = [...token.parentElement.querySelectorAll(".token")];
    const to = { ArrowRight: all.indexOf(token) + 1, ArrowLeft: all.indexOf(token) - 1, Home: 0, End: all.length - 1 }[event.key];
    if (!all[to]) return;
    event.preventDefault();
    token.tabIndex = -1; // one stop for Tab in each answer: where one has been
    all[to].tabIndex = 0;
    all[to].focus();
  }

  #open(token) {
    if (!token || token === this.#shown) return;
    this.#close();
    this.#shown = token;
    token.setAttribute("aria-describedby", this.tip.id);
    this.tip.replaceChildren(...explain(this.#segments.get(token)));
    this.tip.hidden = false;
    this.#place();
  }

  #place() {
    const box = this.#shown.getClientRects()[0];
    const { width, height } = this.tip.getBoundingClientRect();
    const below = box.bottom + 6 + height < innerHeight;
    this.tip.style.left = `${Math.max(8, Math.min(box.left, document.documentElement.clientWidth - width - 8))}px`;
    this.tip.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - height - 6)}px`;
  }

  #close() {
    this.#shown?.removeAttribute("aria-describedby");
    this.#shown = null;
    this.tip.hidden = true;
  }
}

function explain({ text, tokens }) {
  const head = el("p", { className: "token-tip-head" }, el("code", { className: "code truncate" }, visible(text)), el("b", {}, chance(probability(tokens))));
  if (tokens.length > 1) {
    const count = fill(ngettext("%(n)s token, total probability", "%(n)s tokens, total probability", tokens.length), { n: tokens.length });
    return [head, el("p", { className: "text-ink-3" }, count)];
  }
  const [{ token_id: chosen, top }] = tokens;
  if (!top.length) return [head];
  const rows = top.map(([token, id, logprob]) => {
    const bar = el("progress", { className: "progress", value: Math.exp(logprob), "aria-hidden": "true" });
    const mark = id === chosen ? el("span", { className: "sr-only" }, gettext("(chosen)")) : null;
    const name = el("code", { className: "code truncate" }, visible(token));
    return el("li", { className: id === chosen ? "is-taken" : "" }, name, id === chosen ? icon("check") : null, mark, bar, el("span", { className: "num" }, chance(Math.exp(logprob))));
  });
  return [head, el("p", { className: "text-ink-3" }, gettext("Most likely here")), el("ul", {}, ...rows)];
}
