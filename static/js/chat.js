// The chat page: a conversation's branch, asking, following answers, versions, settings.
import { addToSet } from "./lib/add_to_set.js";
import { AgainDialog } from "./lib/again.js";
import { get, post, request } from "./lib/api.js";
import { append, fencedFile } from "./lib/attach.js";
import { showFacts } from "./lib/chatfacts.js";
import { ChatMenu } from "./lib/chatmenu.js";
import { ChatSocket } from "./lib/chatsocket.js";
import { copyText } from "./lib/clipboard.js";
import { $, data, el } from "./lib/dom.js";
import { fill, gettext } from "./lib/i18n.js";
import { jumpToLatest } from "./lib/latest.js";
import { Library } from "./lib/library.js";
import { MessageView } from "./lib/message.js";
import { fieldOf, Parameters } from "./lib/params.js";
import { pickers } from "./lib/picker.js";
import { Sidebar } from "./lib/sidebar.js";
import { failed, toast } from "./lib/toast.js";
import { ALTERNATIVES, TokenColours } from "./lib/tokens.js";
import { Tree } from "./lib/tree.js";

const API = "/api/chat/conversations";
const NEAR_END = 80;
const LOOK_AGAIN_MS = [500, 1000, 2000, 4000, 8000];

const root = $("[data-chat]");
const log = $("[data-log]");
const place = $("[data-messages]");
const composer = $("[data-composer]");
const settings = $("[data-settings]");
const notice = $("[data-notice]");
const { content: field, target } = composer.elements;

let conversation = data("conversation");
let leaf = conversation?.leaf ?? null;
let turned = null; // settles when the server knows the version that is shown
let following = null; // the answer that is being written in the branch shown
const tree = new Tree(conversation?.messages);
const views = new Map();
const parameters = new Parameters(settings);
const colours = new TokenColours($(".chat-main"));
const sidebar = new Sidebar(root, () => conversation?.id);
const socket = new ChatSocket(root.dataset.socket, `${API}?page_size=1`, {
  sync: (frame) => change(frame.message, (view) => view.text(frame.text)),
  text: (frame) =>
    change(frame.message, (view) => {
      if (!view.message.content) view.progress("");
      view.text(view.message.content + frame.text);
    }),
  progress: (frame) => change(frame.message, (view) => view.showProgress(frame)),
  trimmed: (frame) => change(frame.message, (view) => view.trimmed(frame.count)),
  done: ({ message, logprobs = [] }) => finished(message, logprobs),
  lost: (signedOut) => say(signedOut ? gettext("You were signed out. Sign in again in another tab, then come back here; your text is kept.") : gettext("The connection was lost. Trying again…")),
  back: () => say(""),
});

// Showing ----------------------------------------------------------------------------------------------------------

function say(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
const toEnd = () => (log.scrollTop = log.scrollHeight);

function change(id, work) {
  const view = views.get(id);
  if (!view) return;
  const follow = atEnd();
  view.onDraw = () => follow && toEnd();
  work(view);
}

function viewOf(message) {
  if (!views.has(message.id)) views.set(message.id, new MessageView(message));
  return views.get(message.id);
}

function show(scroll = true) {
  const branch = tree.branch(leaf);
  const nodes = [];
  let speaker = null;
  branch.forEach((message, index) => {
    if (message.role === "assistant") {
      if (speaker !== null && speaker !== message.target) {
        nodes.push(el("p", { className: "switch-mark", dataset: { testid: "switch-mark" } }, fill(gettext("Switched to %(name)s"), { name: message.target_name || message.target })));
      }
      speaker = message.target;
    }
    const view = viewOf(message);
    const versions = tree.versions(message);
    view.showFoot({ index: versions.indexOf(message), count: versions.length }, index === branch.length - 1);
    nodes.push(view.element);
  });
  place.replaceChildren(...nodes);
  $("[data-empty]").hidden = branch.length > 0;
  const running = branch.find((message) => message.state === "running");
  following = running?.id ?? null;
  if (field) {
    $("[data-stop]").hidden = following === null;
    $("[data-send]").hidden = following !== null;
  }
  showConversation();
  if (scroll) toEnd();
}

function showConversation() {
  const title = $("[data-title]");
  title.textContent = conversation?.title ?? "";
  title.hidden = !title.textContent;
  $("[data-conversation-menu]").hidden = !conversation;
  if (!conversation) return;
  $("[data-pin-name]").textContent = conversation.pinned ? gettext("Unpin") : gettext("Pin");
  document.title = `${conversation.title || gettext("Chat")} · LoRA Portal`;
  for (const kind of ["md", "json"]) $(`[data-export="${kind}"]`).href = `${API}/${conversation.id}/export.${kind}`;
  sidebar.put(conversation);
}

function finished(message, tokens) {
  const known = tree.get(message.id);
  if (!known) return;
  Object.assign(known, message);
  const follow = atEnd();
  const view = viewOf(known);
  view.update(known);
  view.tokens = tokens;
  if (tokens.length) view.colour(colours);
  show(follow);
  if (message.state === "failed") {
    const name = fieldOf(message.info.error.param);
    if (name && name !== "prompt" && parameters.error(name, message.info.error.message)) $("#chat-settings").showModal();
  }
}

// What is typed belongs to its conversation.
const draftKey = () => `chat-draft-${conversation?.id ?? "new"}`;

// Asking -----------------------------------------------------------------------------------------------------------

async function ensureConversation() {
  if (conversation) return;
  conversation = await post(API, { system: settings.elements.system.value, target: target.value });
  history.replaceState(null, "", `/chat/${conversation.id}`);
}

/** Resolves to whether it was asked; what was not is said. */
async function run(frame) {
  const params = parameters.read();
  if (!params) {
    $("#chat-settings").showModal();
    return false;
  }
  if (settings.elements.probabilities.checked) params.logprobs = ALTERNATIVES;
  try {
    await ensureConversation();
    await turned;
    const started = await socket.ask({ conversation: conversation.id, seen: conversation.leaf ?? 0, target: target.value, params, ...frame });
    Object.assign(conversation, started.conversation);
    if (started.question) tree.put(started.question);
    const known = tree.get(started.answer.id);
    if (known) Object.assign(known, started.answer);
    else tree.put(started.answer);
    if (known) viewOf(known).update(known);
    leaf = started.answer.id;
    show();
    return true;
  } catch (error) {
    if (error.code === "connection_lost" && (await arrived())) return true;
    if (error.code === "conversation_changed" && (await get(`${API}/${conversation.id}`).then(showNow, () => false))) {
      toast("info", error.message, gettext("The latest version is shown. Your message was not sent."));
      return false;
    }
    const lost = { not_connected: gettext("The server refused the connection. If you were signed out, sign in again in another tab, then retry."), connection_lost: gettext("The connection was lost. Try again.") };
    failed({ message: error.message ?? lost[error.code] ?? "", code: error.code }, gettext("Not sent"));
    return false;
  }
}

/** After a connection that was lost while asking: whether the server has the question. It then goes on here. */
async function arrived() {
  for (const delay of LOOK_AGAIN_MS) {
    await new Promise((resolve) => setTimeout(resolve, delay));
    try {
      const now = await get(`${API}/${conversation.id}`);
      const end = now.messages.find((message) => message.id === now.leaf);
      const isNew = end && (!tree.get(end.id) || (end.state === "running" && tree.get(end.id).state !== "running"));
      return Boolean(isNew) && showNow(now);
    } catch (error) {
      if (error.status) return false; // else the server cannot be reached yet
    }
  }
  return false;
}

/** Show the conversation as the server has it. */
function showNow({ messages, ...fresh }) {
  for (const message of messages) {
    const known = tree.get(message.id);
    if (known) viewOf(Object.assign(known, message)).update(known);
    else tree.put(message);
  }
  Object.assign(conversation, fresh);
  leaf = fresh.leaf;
  show();
  if (following !== null) socket.follow(following);
  return true;
}

async function send() {
  const text = field.value;
  if (!text.trim() || following !== null) return;
  const key = draftKey();
  field.value = "";
  if (!(await run({ type: "ask", parent: leaf, content: text }))) field.value ||= text;
  else sessionStorage.removeItem(key);
}

// What a message's buttons do --------------------------------------------------------------------------------------

const actions = {
  copy: async (message) => (await copyText(message.content)) && toast("good", gettext("Copied")),
  again: (message) => run({ type: "again", message: message.parent }),
  continue: (message) => run({ type: "continue", message: message.id }),
  "again-with": (message) => againDialog?.open(message),
  "edit-answer": (message) => viewOf(message).edit((text) => keepVersion(message, text)),
  edit: (message) => viewOf(message).edit(async (text) => (await run({ type: "ask", parent: message.parent, content: text })) || (field.value ||= text)),
  colour: (message) => viewOf(message).colour(viewOf(message).coloured ? null : colours),
  "to-set": (message) => addToSet({ messages: askedBefore(message) }, [{ name: message.target_name || message.target, text: message.content }]).catch(failed),
  before: (message) => turn(message, -1),
  after: (message) => turn(message, 1),
};

/** What the model was asked when it gave this answer. */
function askedBefore(message) {
  const turns = tree.branch(message.parent).map(({ role, content }) => ({ role, content }));
  return conversation.system?.trim() ? [{ role: "system", content: conversation.system }, ...turns] : turns;
}

const againDialog = target && new AgainDialog($("#again-dialog"), target, (message, slug) => run({ type: "again", message: message.parent, target: slug }));

/** Keep `text` as a version beside the answer. */
async function keepVersion(message, text) {
  try {
    const version = await post(`${API}/${conversation.id}/versions`, { message: message.id, content: text });
    tree.put(version);
    leaf = conversation.leaf = version.id;
    show(false);
    views.get(version.id).element.scrollIntoView({ block: "nearest" });
  } catch (error) {
    viewOf(message).edit((again) => keepVersion(message, again), text); // nothing that was written is lost
    failed(error, gettext("Not saved"));
  }
}

function turn(message, step) {
  const versions = tree.versions(message);
  const other = versions[versions.indexOf(message) + step];
  if (!other) return;
  leaf = tree.end(other);
  show(false);
  if (following !== null) socket.follow(following);
  turned = patch({ leaf }).catch(failed);
}

/** Change the conversation. Its `leaf` stays the one known here: what another window added is not shown yet. */
async function patch(changes) {
  const fresh = await request("PATCH", `${API}/${conversation.id}`, changes);
  Object.assign(conversation, fresh, { leaf: changes.leaf ?? conversation.leaf });
}

place.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (!button) return;
  const message = tree.get(Number(button.closest("[data-id]").dataset.id));
  if (following !== null && !["copy", "colour", "before", "after"].includes(button.dataset.act)) return toast("info", gettext("Wait for the answer, or stop it."));
  actions[button.dataset.act](message);
});

// Composer, settings, menu -----------------------------------------------------------------------------------------

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
field?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
field?.addEventListener("input", () => sessionStorage.setItem(draftKey(), field.value));
$("[data-stop]")?.addEventListener("click", () => following !== null && socket.stop(following));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && following !== null && !$("dialog[open]")) socket.stop(following);
});

$("[data-empty]").addEventListener("click", (event) => {
  const sample = event.target.closest("[data-sample]");
  if (!sample || !field) return;
  field.value = sample.textContent;
  send();
});

$("[data-attach]")?.addEventListener("click", () => $("[data-attach-file]").click());
$("[data-attach-file]")?.addEventListener("change", async ({ target: picked }) => {
  const [file] = picked.files;
  picked.value = ""; // the same file may be chosen again
  try {
    if (file) append(field, await fencedFile(file, field.maxLength - field.value.length - 4));
  } catch (error) {
    failed(error, gettext("Not attached"));
  }
});

const facts = () => showFacts($("[data-facts]"), settings);
const { system } = settings.elements;
new Library(settings, { texts: { system }, parameters, inserted: facts });
if (field) new Library($("[data-composer-library]"), { texts: { prompt: field } });
settings.addEventListener("input", facts);
$("#chat-settings").addEventListener("close", facts); // presets and errors change fields too
settings.addEventListener("submit", async () => {
  if (!conversation || system.value === conversation.system) return;
  try {
    await patch({ system: system.value });
  } catch (error) {
    failed(error);
  }
});

new ChatMenu({ current: () => conversation, patch, show: showConversation, sidebar, address: () => `${API}/${conversation.id}` });

// A model that is gone stays chosen until another one is: nobody else answers for it.
target?.addEventListener("change", () => document.querySelectorAll("[data-unknown]").forEach((node) => node.value === target.value || node.remove()));

// Begin --------------------------------------------------------------------------------------------------------------

pickers();
if (conversation) {
  system.value = conversation.system;
  parameters.fill(conversation.params);
  settings.elements.probabilities.checked = Number.isInteger(conversation.params.logprobs);
}
facts();
jumpToLatest($("[data-latest]"), log, place, atEnd, toEnd);
if (field && !field.value) field.value = sessionStorage.getItem(draftKey()) ?? "";
if (field) new Library(log, { texts: { system, prompt: field }, parameters, inserted: facts }).insertLinked();
show();
if (following !== null) socket.follow(following);
document.documentElement.dataset.ready = "true";
