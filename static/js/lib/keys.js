// The dialog that tells the keys, and which key opens it. A key alone can be switched off (WCAG 2.1.4).
import { $, el, icon } from "./dom.js";
import { gettext } from "./i18n.js";

const OFF = "no-question-key"; // app.js looks at it
const MOD = /Mac|iPhone|iPad/.test(navigator.userAgent) ? "⌘" : "Ctrl";

const sections = () => [
  [gettext("Everywhere"), [[[MOD, "K"], gettext("search and commands")], [["?"], gettext("these keys")], [["Esc"], gettext("close what is open")]]],
  [gettext("Test and Compare"), [[[MOD, "Enter"], gettext("send")], [["Esc"], gettext("stop the answers")], [["↑"], gettext("recent prompts, at the start of the prompt")]]],
  [gettext("Chat"), [[["Enter"], gettext("send")], [["Shift", "Enter"], gettext("new line")], [["Esc"], gettext("stop the answer")]]],
  [gettext("Choosing a model"), [[["↓"], gettext("open the list, next model")], [["↑"], gettext("previous model")], [["Enter"], gettext("choose")]]],
  [gettext("Tabs and tokens"), [[["←", "→"], gettext("previous, next")]]],
];

function section([title, keys]) {
  const rows = keys.map(([combination, does]) => el("div", { className: "keys-row" }, el("dt", { className: "flex gap-1" }, ...combination.map((key) => el("kbd", { className: "kbd" }, key))), el("dd", {}, does)));
  return el("section", {}, el("h3", { className: "text-xs font-medium text-ink-3" }, title), el("dl", {}, ...rows));
}

let dialog = null;

function make() {
  const close = el("button", { className: "btn btn-quiet btn-sm btn-icon ml-auto -mr-1", type: "button", "aria-label": gettext("Close"), dataset: { closes: "" } }, icon("xmark"));
  const head = el("div", { className: "flex items-center border-b border-line px-5 py-3" }, el("h2", { className: "text-base", id: "keys-title" }, gettext("Keyboard shortcuts")), close);
  const on = el("input", { className: "checkbox mt-0.5", type: "checkbox", checked: localStorage.getItem(OFF) === null, dataset: { testid: "question-key" } });
  on.addEventListener("change", () => (on.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1")));
  const choice = el("label", { className: "flex gap-2.5 border-t border-line px-5 py-3 text-sm" }, on, gettext("The key ? alone opens this list"));
  dialog = el("dialog", { className: "dialog", "aria-labelledby": "keys-title", dataset: { testid: "keys" } }, head, el("div", { className: "keys" }, ...sections().map(section)), choice);
  document.body.append(dialog);
}

export function openKeys() {
  if (!dialog) make();
  if (!$("dialog[open]")) dialog.showModal();
}
