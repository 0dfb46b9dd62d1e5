// Sentences for the frames that come before the first token.
import { about, fill, gettext, ngettext, number } from "./i18n.js";

const STAGES = {
  starting: () => gettext("Starting the engine"),
  weights: () => gettext("Loading %(name)s"),
  quantising: () => gettext("Quantising %(name)s"),
  packing: () => gettext("Preparing the weights of %(name)s"),
  adapter: () => gettext("Loading the adapter %(name)s"),
  proving: () => gettext("Measuring the effect of %(name)s"),
  unloading: () => gettext("Unloading %(name)s"),
};

const REASONS = {
  batch_full: () => gettext("all slots are in use"),
  memory: () => gettext("waiting for memory"),
  loading_base: () => gettext("waiting for %(base)s to load"),
  other_base: () => gettext("waiting for answers on another base model to finish"),
  loading_adapter: () => gettext("waiting for the adapter to load"),
};

const REASONS_OF_ENDING = {
  stop: () => gettext("end of answer"),
  length: () => gettext("token limit"),
  cancelled: () => gettext("stopped by you"),
  stop_string: () => gettext("stop string"),
};

export function loadingSentence({ stage, name, progress }) {
  const sentence = fill((STAGES[stage] ?? STAGES.weights)(), { name });
  return progress > 0 && progress < 1 ? `${sentence} · ${number(progress * 100)}%` : `${sentence}…`;
}

export function queuedSentence({ position, reason, detail }) {
  const place =
    position > 0
      ? fill(ngettext("Queued behind %(n)s request", "Queued behind %(n)s requests", position), { n: position })
      : gettext("Next in queue");
  const why = REASONS[reason]?.();
  return why ? `${place} · ${fill(why, detail ?? {})}` : place;
}

const SENTENCES = { queued: queuedSentence, loading: loadingSentence };

/** Says what a request waits for, and counts down what the server expects; `show(sentence)` puts it on the page. */
export class Waiting {
  #show;
  #timer;
  #shown;

  constructor(show) {
    this.#show = show;
  }

  say(kind, frame) {
    this.end();
    const sentence = SENTENCES[kind](frame);
    const until = performance.now() + (frame.expected ?? 0) * 1000;
    const draw = () => {
      const left = (until - performance.now()) / 1000;
      if (left < 1) clearInterval(this.#timer);
      const text = left < 1 ? sentence : `${sentence} · ${about(left)}`;
      if (text !== this.#shown) this.#show((this.#shown = text));
    };
    if (frame.expected) this.#timer = setInterval(draw, 1000);
    draw();
  }

  end() {
    clearInterval(this.#timer);
    this.#shown = null;
  }
}

export const endingSentence = (frame) =>
  (REASONS_OF_ENDING[frame.stop ? "stop_string" : frame.finish_reason] ?? (() => frame.finish_reason))();
