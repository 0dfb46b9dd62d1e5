// Text that arrives in pieces, written at most once a frame so that the page stays calm at any speed.

export class TextStream {
  #pending = "";
  #frame = 0;
  #node = null;

  constructor(element) {
    this.element = element;
  }

  get text() {
    return (this.#node?.data ?? "") + this.#pending;
  }

  clear() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#pending = "";
    this.#node = null;
    this.element.replaceChildren();
  }

  push(text) {
    this.#pending += text;
    if (document.visibilityState === "hidden") this.flush(); // no frames are drawn there
    else this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.#pending) return;
    const follow = this.#atEnd();
    if (!this.#node) {
      this.#node = document.createTextNode("");
      this.element.replaceChildren(this.#node);
    }
    this.#node.appendData(this.#pending);
    this.#pending = "";
    if (follow) this.element.lastChild && this.#scrollToEnd();
  }

  // Follow only a reader who already sees the end of the answer.
  #atEnd() {
    const end = this.element.getBoundingClientRect().bottom;
    return end > innerHeight - 120 && end < innerHeight + 40;
  }

  #scrollToEnd() {
    const over = this.element.getBoundingClientRect().bottom - innerHeight + 24;
    if (over > 0) scrollBy(0, over);
  }
}

/** Characters as people count them: an emoji is one. */
export const lengthOf = (text) => [...text].length;
