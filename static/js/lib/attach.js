// A text file into the message that is being written, as a fenced block under its name: what is sent is seen before.
import { fill, gettext, number } from "./i18n.js";

const LANGUAGES = { py: "python", js: "javascript", ts: "typescript", sh: "bash", yml: "yaml", rs: "rust", rb: "ruby", md: "markdown" };

/** `file` as Markdown. Throws an Error with a sentence for people: no text, or more than `most` characters with it. */
export async function fencedFile(file, most) {
  // No character takes less than a byte: what is larger by far is not even read.
  if (file.size > 4 * most) throw new Error(tooLong(file, most));
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(fill(gettext("%(name)s is not a text file in UTF-8."), { name: file.name }));
  }
  if (text.includes("\0")) throw new Error(fill(gettext("%(name)s is not a text file in UTF-8."), { name: file.name }));
  const block = fenced(file.name, text.replace(/\r\n?/g, "\n").replace(/\n+$/, ""));
  if (block.length > most) throw new Error(tooLong(file, most));
  return block;
}

const tooLong = (file, most) => fill(gettext("%(name)s is too long: the message can have %(n)s more characters."), { name: file.name, n: number(most) });

/** A fence longer than any in the text, so that nothing in it ends the block. */
function fenced(name, text) {
  const longest = Math.max(2, ...[...text.matchAll(/`{3,}/g)].map(([ticks]) => ticks.length));
  const fence = "`".repeat(longest + 1);
  const extension = /\.([a-z0-9+]{1,12})$/i.exec(name)?.[1].toLowerCase() ?? "";
  const title = name.replace(/[`\p{Cc}]/gu, "");
  return `\`${title}\`\n\n${fence}${LANGUAGES[extension] ?? extension}\n${text}\n${fence}\n`;
}

/** The message `field` with `block` at its end, below what is written already. */
export function append(field, block) {
  const before = field.value.replace(/\s+$/, "");
  field.value = `${before}${before ? "\n\n" : ""}${block}\n`;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
  field.scrollTop = field.scrollHeight;
}
