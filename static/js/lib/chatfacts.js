// What the next answer is asked with, in the head of the conversation: the system prompt and the parameters.
import { el, icon } from "./dom.js";
import { fill, gettext } from "./i18n.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "top_k", "repetition_penalty", "seed"];
const MOST = 200; // characters of the system prompt; CSS cuts what has no room

/** Show in `button` what the form `settings` holds. */
export function showFacts(button, settings) {
  const { elements } = settings;
  const system = elements.system.value.trim();
  const parameters = NUMBERS.filter((name) => elements[name]?.value).map((name) => `${titleOf(elements[name])} ${elements[name].value}`);
  const stops = (elements.stop?.value ?? "").split("\n").filter(Boolean);
  if (stops.length) parameters.push(`${titleOf(elements.stop)} ${stops.join(" ")}`);
  const words = system ? fill(gettext("System prompt: %(text)s"), { text: system.slice(0, MOST).replace(/\s+/g, " ") }) : gettext("No system prompt");
  if (elements.probabilities.checked) parameters.push(gettext("Probabilities"));
  const about = el("span", { className: system ? "chat-facts-system" : "chat-facts-system is-none", dataset: { testid: "facts-system" } }, words);
  const numbers = el("span", { className: "chat-facts-numbers", dataset: { testid: "facts-parameters" } }, parameters.join(" · "));
  button.replaceChildren(icon("sliders"), about, numbers);
  button.title = [system || words, parameters.join(" · ")].join("\n\n");
}

const titleOf = (field) => field.labels[0]?.textContent ?? field.name;
