// The form of an assistant.
import { $ } from "./lib/dom.js";
import { Library } from "./lib/library.js";
import { Parameters } from "./lib/params.js";
import { pickers } from "./lib/picker.js";

pickers();
const library = $("[data-library]");
const { form } = $("#a-system");
new Library(library, { texts: { system: form.elements.system }, parameters: new Parameters(form) });
document.documentElement.dataset.ready = "true";
