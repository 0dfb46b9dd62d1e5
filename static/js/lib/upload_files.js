// What a person chose or dropped, and which of it an upload needs. The server judges again.
import { gettext } from "./i18n.js";

const KEPT = /\.(safetensors|jsonl?|jinja)$/i;
const MODEL_CARD = /(^|\/)README\.md$/;
const ARCHIVE = /\.(zip|tar|tar\.gz|tgz|tar\.bz2|tar\.xz)$/i;
const PICKLE = /\.(bin|pt|pth|pkl|ckpt)$/i;
const CLUTTER = /(^|\/)(\._[^/]*|\.DS_Store|Thumbs\.db)$|^__MACOSX\//;
const MOST = 5000; // files of a dropped folder that are looked at

/** Of a file input: [{path, file}]; of a chosen folder with its name. */
export const chosenFiles = (list) => [...list].map((file) => ({ path: file.webkitRelativePath || file.name, file }));

/** Of a drop, folders whole. */
export async function droppedFiles(transfer) {
  // The entries have to be taken before anything is waited for.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = [];
  for (const entry of entries) await walk(entry, "", found);
  return found;
}

async function walk(entry, above, found) {
  if (found.length >= MOST) return;
  const path = above + entry.name;
  if (entry.isFile) {
    found.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives a hundred at a time.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const one of some) await walk(one, `${path}/`, found);
  }
}

/** {name, files, leftOut: [path]} of what is to be sent, or {problem: sentence}. */
export function judge(found) {
  const real = found.filter(({ path }) => !CLUTTER.test(path));
  const archives = real.filter(({ path }) => ARCHIVE.test(path));
  if (archives.length === 1 && real.length === 1) {
    return { name: archives[0].file.name.replace(ARCHIVE, ""), files: archives, leftOut: [] };
  }
  const files = real.filter(({ path }) => KEPT.test(path) || MODEL_CARD.test(path));
  if (archives.length && !files.length) return { problem: gettext("Send one archive at a time.") };
  if (!files.some(({ path }) => /(^|\/)adapter_config\.json$/.test(path))) {
    return { problem: gettext("There is no adapter_config.json among these files. Choose the folder in which training saved the adapter.") };
  }
  if (!files.some(({ path }) => /\.safetensors$/i.test(path)) && real.some(({ path }) => PICKLE.test(path))) {
    return { problem: gettext("The weights are a pickle file (.bin), which is not accepted from outside. Save the adapter as safetensors.") };
  }
  const tops = new Set(files.map(({ path }) => path.split("/")[0]));
  const name = tops.size === 1 && files[0].path.includes("/") ? [...tops][0] : "";
  return { name, files, leftOut: real.filter((one) => !files.includes(one)).map(({ path }) => path) };
}
