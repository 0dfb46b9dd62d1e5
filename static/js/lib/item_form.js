// The form of one item: what is asked, the reference, and the checks.
import { $, $$, el, icon } from "./dom.js";
import { fill, gettext, number } from "./i18n.js";

const ROLES = { system: gettext("System"), user: gettext("User"), assistant: gettext("Assistant") };
const UNITS = { characters: gettext("characters"), words: gettext("words"), lines: gettext("lines") };
const SCRIPTS = {
  latin: gettext("Latin"), han: gettext("Chinese characters"), japanese: gettext("Japanese"), hangul: gettext("Korean"),
  cyrillic: gettext("Cyrillic"), greek: gettext("Greek"), arabic: gettext("Arabic"), hebrew: gettext("Hebrew"), devanagari: gettext("Devanagari"), thai: gettext("Thai"),
};

const option = (value, text) => el("option", { value }, text);
const field = (label, input) => el("label", { className: "flex min-w-0 flex-1 items-center gap-2 text-xs text-ink-2" }, el("span", { className: "flex-none" }, label), input);

function input(name, value, properties = {}) {
  return el("input", { className: "input h-8", name, value: value ?? "", ...properties });
}

function checkbox(name, checked, label) {
  const box = el("input", { className: "checkbox", type: "checkbox", name });
  box.checked = Boolean(checked);
  return el("label", { className: "flex items-center gap-2 text-xs text-ink-2" }, box, label);
}

/** The fields of a check by its kind. */
function fieldsOf(check) {
  const { kind } = check;
  if (["equals", "contains", "excludes", "pattern"].includes(kind)) {
    const hint = { equals: gettext("Empty: the reference answer"), contains: gettext("Empty: the reference answer"), pattern: gettext("RE2 syntax, found anywhere") }[kind] ?? "";
    const parts = [input("value", check.value, { placeholder: hint, "aria-label": gettext("Text") })];
    if (kind !== "pattern") parts.push(checkbox("ignore_case", check.ignore_case, gettext("ignore case")));
    return parts;
  }
  if (kind === "json") return [checkbox("fenced", check.fenced, gettext("may stand in a code block"))];
  if (kind === "schema") {
    const text = check.schema ? JSON.stringify(check.schema, null, 2) : "";
    return [el("textarea", { className: "textarea font-mono text-xs", name: "schema", rows: 4, value: text, "aria-label": gettext("JSON schema") }), checkbox("fenced", check.fenced, gettext("may stand in a code block"))];
  }
  if (kind === "length") {
    const unit = el("select", { className: "select h-8 w-36 text-xs", name: "unit", "aria-label": gettext("Unit") }, ...Object.entries(UNITS).map(([value, text]) => option(value, text)));
    unit.value = check.unit ?? "characters";
    const bounds = [field(gettext("from"), input("least", check.least, { type: "number", min: 0 })), field(gettext("to"), input("most", check.most, { type: "number", min: 0 }))];
    return [el("div", { className: "flex flex-wrap items-center gap-2" }, ...bounds, unit)];
  }
  if (kind === "loss") {
    const most = input("most", check.most, { type: "number", min: 0, step: "any", placeholder: gettext("Empty: only measured"), "aria-label": gettext("Highest loss, in nats per token"), dataset: { testid: "check-loss" } });
    return [field(gettext("at most"), most), el("span", { className: "hint" }, gettext("How likely the reference answer is after the question, in nats per token as trainers tell it. Nothing is asked for it."))];
  }
  const scripts = el("select", { className: "select h-8 text-xs", name: "script", "aria-label": gettext("Script") }, ...Object.entries(SCRIPTS).map(([value, text]) => option(value, text)));
  scripts.value = check.script ?? "latin";
  return [scripts, el("span", { className: "hint" }, gettext("By the letters alone: it tells Chinese from English, not English from German."))];
}

function readCheck(row) {
  const get = (name) => $(`[name="${name}"]`, row);
  const kind = get("kind").value;
  const check = { kind };
  if (get("value")?.value) check.value = get("value").value;
  for (const name of ["ignore_case", "fenced"]) if (get(name)?.checked) check[name] = true;
  if (kind === "schema") {
    try {
      check.schema = JSON.parse(get("schema").value);
    } catch {
      throw new Error(gettext("The JSON schema is not valid JSON."));
    }
  }
  if (kind === "script") check.script = get("script").value;
  if (kind === "length") {
    check.unit = get("unit").value;
    for (const name of ["least", "most"]) if (get(name).value !== "") check[name] = Number(get(name).value);
  }
  if (kind === "loss" && get("most").value !== "") check.most = Number(get("most").value);
  return check;
}

export class ItemForm {
  number = null; // of the item that is edited; null: a new one

  constructor(dialog, kinds, most) {
    this.dialog = dialog;
    this.kinds = kinds;
    this.most = most;
    this.form = $("form", dialog);
    this.turns = $("[data-chat-fields]", dialog);
    this.checks = $("[data-checks]", dialog);
    $("[data-add-turn]", dialog).addEventListener("click", () => this.#turn({ role: "user", content: "" }).querySelector("textarea").focus());
    $("[data-add-check]", dialog).addEventListener("click", () => this.#check({ kind: "contains" }).querySelector("select").focus());
    this.form.elements.raw.addEventListener("change", () => this.#showRaw());
  }

  open(number, item) {
    this.number = number;
    $("h2", this.dialog).textContent = number === null ? gettext("Add item") : fill(gettext("Item %(n)s"), { n: number });
    $("[data-problem]", this.dialog).hidden = true;
    const { raw, prompt, reference } = this.form.elements;
    raw.checked = item.prompt !== undefined;
    prompt.value = item.prompt ?? "";
    reference.value = item.reference ?? "";
    this.turns.replaceChildren();
    for (const turn of item.messages ?? [{ role: "user", content: "" }]) this.#turn(turn);
    this.checks.replaceChildren();
    for (const check of item.checks ?? []) this.#check(check);
    this.#showRaw();
    this.dialog.showModal();
  }

  /** As the API takes it. Throws where a field cannot be read. */
  read() {
    const { raw, prompt, reference } = this.form.elements;
    const item = raw.checked ? { prompt: prompt.value } : { messages: this.#messages() };
    if (reference.value) item.reference = reference.value;
    item.checks = $$("[data-check]", this.checks).map(readCheck);
    return item;
  }

  #messages() {
    const turns = $$("[data-turn]", this.turns).map((turn) => ({ role: $("select", turn).value, content: $("textarea", turn).value }));
    return turns.filter((turn) => turn.content.trim());
  }

  #showRaw() {
    const isRaw = this.form.elements.raw.checked;
    $("[data-raw-field]", this.dialog).hidden = !isRaw;
    this.turns.hidden = $("[data-add-turn]", this.dialog).hidden = isRaw;
  }

  #remove(row) {
    const button = el("button", { type: "button", className: "btn btn-quiet btn-sm btn-icon", "aria-label": gettext("Remove") }, icon("xmark"));
    button.addEventListener("click", () => row.remove());
    return button;
  }

  #turn({ role, content }) {
    const select = el("select", { className: "select h-8 w-36 text-xs", "aria-label": gettext("Role") }, ...Object.entries(ROLES).map(([value, text]) => option(value, text)));
    select.value = role;
    const text = el("textarea", { className: "textarea", rows: 3, value: content, "aria-label": gettext("Message"), dataset: { testid: "item-message" } });
    const head = el("div", { className: "mb-1 flex items-center gap-2" }, select);
    const row = el("div", { dataset: { turn: "" } }, head, text);
    head.append(this.#remove(row));
    this.turns.append(row);
    return row;
  }

  #check(check) {
    if ($$("[data-check]", this.checks).length >= this.most) throw new Error(fill(gettext("At most %(n)s checks."), { n: number(this.most) }));
    const kind = el("select", { className: "select h-8 text-xs", name: "kind", "aria-label": gettext("Check"), dataset: { testid: "check-kind" } }, ...this.kinds.map((one) => option(one.kind, one.title)));
    kind.value = check.kind;
    const fields = el("div", { className: "flex flex-col gap-2" }, ...fieldsOf(check));
    const head = el("div", { className: "flex items-center gap-2" }, kind);
    const row = el("div", { className: "check-row", dataset: { check: "", testid: "check" } }, head, fields);
    head.append(this.#remove(row));
    kind.addEventListener("change", () => fields.replaceChildren(...fieldsOf({ kind: kind.value })));
    this.checks.append(row);
    return row;
  }
}
