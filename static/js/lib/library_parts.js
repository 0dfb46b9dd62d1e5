// What an entry of the prompt library holds, in words.
import { gettext } from "./i18n.js";

/** Names of the parts that an entry has. */
export const partNames = () => ({ system: gettext("System prompt"), prompt: gettext("Prompt"), params: gettext("Parameters") });

export const paramsLine = (params) => Object.entries(params).map(([name, value]) => `${name} ${[].concat(value).map((one) => (typeof one === "string" ? JSON.stringify(one) : one)).join(" ")}`).join(" · ");
