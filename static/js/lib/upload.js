// Adapters sent from this computer: a folder, files or an archive, in pieces, so that a lost connection costs little.
import { ApiError, post, request } from "./api.js";
import { chosenFiles, droppedFiles, judge } from "./upload_files.js";
import { $, el } from "./dom.js";
import { fill, gettext, ngettext, number } from "./i18n.js";
import { bytes } from "./units.js";

const CALL = "/api/lora/uploads";
const ATTEMPTS = [1000, 2000, 4000, 8000]; // milliseconds to wait before a piece is sent again

export class Upload {
  #chosen = null; // {name, files: [{path, file}], leftOut}
  #key = null;
  #abort = null;
  #done = false;

  /** `finished`: called when adapters have arrived. */
  constructor(dialog, finished) {
    this.dialog = dialog;
    this.finished = finished;
    this.part = (name) => $(`[data-upload-${name}]`, dialog);
    for (const kind of ["folder", "files"]) {
      const input = this.part(`${kind}-input`);
      this.part(kind).addEventListener("click", () => input.click());
      input.addEventListener("change", () => {
        this.#take(chosenFiles(input.files));
        input.value = "";
      });
    }
    this.part("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#done) this.dialog.close();
      else this.#send();
    });
    this.part("cancel").addEventListener("click", () => this.#cancel());
    dialog.addEventListener("cancel", (event) => {
      if (!this.#abort) return;
      event.preventDefault(); // Escape does not throw away what is under way
    });
    dialog.addEventListener("close", () => this.#reset());
    window.addEventListener("beforeunload", (event) => this.#abort && event.preventDefault());
    this.#dropping();
  }

  open() {
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** Files may be dropped anywhere on the page. */
  #dropping() {
    const zone = this.part("drop");
    const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      if (this.#abort || this.#done) return (event.dataTransfer.dropEffect = "none");
      this.open();
      zone.classList.add("is-over");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && zone.classList.remove("is-over"));
    document.addEventListener("drop", async (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      zone.classList.remove("is-over");
      if (this.#abort || this.#done) return;
      this.open();
      this.#take(await droppedFiles(event.dataTransfer));
    });
  }

  #take(found) {
    this.#say("");
    const judged = judge(found);
    if (judged.problem) {
      this.#chosen = null;
      this.part("chosen").hidden = true;
      this.part("go").disabled = true;
      return this.#fail(judged.problem);
    }
    this.#fail("");
    this.#chosen = judged;
    this.#key = null;
    this.part("chosen").hidden = false;
    $("#upload-name", this.dialog).value = judged.name;
    const size = judged.files.reduce((sum, { file }) => sum + file.size, 0);
    const count = fill(ngettext("%(n)s file", "%(n)s files", judged.files.length), { n: number(judged.files.length) });
    this.part("summary").textContent = `${count} · ${bytes(size)}`;
    this.#showLeftOut(judged.leftOut, judged.leftOut.length, ngettext("%(n)s file is not needed and will not be sent", "%(n)s files are not needed and will not be sent", judged.leftOut.length));
    this.part("go").disabled = false;
    this.part("go").textContent = gettext("Upload");
    this.part("go").focus();
  }

  #showLeftOut(paths, count, sentence) {
    this.part("left").hidden = !count;
    this.part("left-count").textContent = fill(sentence, { n: number(count) });
    this.part("left-names").replaceChildren(...paths.slice(0, 20).map((path) => el("li", { className: "break-all" }, path)), ...(count > 20 ? [el("li", {}, "…")] : []));
  }

  async #send() {
    const { files } = this.#chosen;
    this.#abort = new AbortController();
    this.#busy(true);
    this.#fail("");
    try {
      const announced = files.map(({ path, file }) => ({ path, size: file.size, modified: Math.trunc(file.lastModified) }));
      const upload = await post(CALL, { name: $("#upload-name", this.dialog).value.trim(), files: announced });
      this.#key = upload.id;
      let sent = upload.received;
      const began = { at: performance.now(), sent };
      this.#progress(sent, upload.size, began);
      for (const [index, { file }] of files.entries()) {
        let offset = upload.files[index].received;
        while (offset < file.size) {
          const received = await this.#piece(index, file, offset, upload.piece_bytes);
          sent += received - offset;
          offset = received;
          this.#progress(sent, upload.size, began);
        }
      }
      this.#say(gettext("Checking what has arrived…"));
      this.#finish(await request("POST", `${CALL}/${upload.id}/finish`, {}, { signal: this.#abort.signal }));
    } catch (error) {
      this.#abort = null;
      this.#busy(false);
      if (error.code === "aborted") return;
      this.#fail(error.message);
      this.part("go").textContent = gettext("Continue");
      this.#say(error.status ? "" : gettext("What has arrived is kept for a day."));
    }
  }

  /** Send one piece; where the connection is lost, again after a while. Resolves to what has arrived of the file. */
  async #piece(index, file, offset, size) {
    for (let attempt = 0; ; attempt++) {
      try {
        const data = file.slice(offset, offset + size);
        const answer = await request("PUT", `${CALL}/${this.#key}/files/${index}?offset=${offset}`, data, { signal: this.#abort.signal });
        return answer.received;
      } catch (error) {
        if (error.code === "upload_offset" && error.extra.received !== offset) return error.extra.received;
        const passing = error.status === 0 || error.status >= 502;
        if (error.code === "aborted" || !passing || attempt >= ATTEMPTS.length) throw error;
        this.#say(gettext("The connection was lost. Trying again…"));
        await pause(ATTEMPTS[attempt], this.#abort.signal);
      }
    }
  }

  #progress(sent, size, began) {
    this.part("progress").value = size ? sent / size : 1;
    const seconds = (performance.now() - began.at) / 1000;
    const speed = (sent - began.sent) / seconds;
    const left = speed > 0 && seconds > 2 ? (size - sent) / speed : 0;
    const parts = [fill(gettext("%(sent)s of %(size)s"), { sent: bytes(sent), size: bytes(size) })];
    if (left > 60) parts.push(fill(ngettext("about %(n)s minute left", "about %(n)s minutes left", Math.round(left / 60)), { n: number(Math.round(left / 60)) }));
    else if (left > 5) parts.push(fill(gettext("about %(n)s s left"), { n: number(Math.ceil(left / 5) * 5) }));
    this.#say(parts.join(" · "));
  }

  #finish(result) {
    this.#abort = null;
    this.#done = true;
    this.#busy(false);
    this.part("chosen").hidden = true;
    this.part("drop").hidden = true;
    const found = result.adapters.map((adapter) =>
      el("li", {}, el("a", { className: "link", href: `/models/${adapter.id}` }, adapter.name), adapter.failure ? ` · ${adapter.failure.message}` : ""),
    );
    const sentence = found.length
      ? fill(ngettext("%(n)s adapter has arrived.", "%(n)s adapters have arrived.", found.length), { n: number(found.length) })
      : gettext("The files have arrived. A scan is running; the adapters appear in the list when it has found them.");
    const left = result.left_out_count
      ? [el("p", { className: "hint" }, fill(ngettext("%(n)s file of the archive was not kept: %(names)s", "%(n)s files of the archive were not kept: %(names)s", result.left_out_count), { n: number(result.left_out_count), names: result.left_out.slice(0, 5).join(", ") }))]
      : [];
    this.part("result").replaceChildren(el("p", { role: "status" }, sentence), el("ul", { className: "list-disc pl-5" }, ...found), ...left);
    this.part("result").hidden = false;
    this.part("cancel").hidden = true;
    this.part("go").textContent = gettext("Done");
    this.part("go").disabled = false;
    this.part("go").focus();
    this.finished();
  }

  #cancel() {
    const key = this.#key;
    this.#abort?.abort();
    this.#abort = null;
    this.#key = null;
    if (key && !this.#done) request("DELETE", `${CALL}/${key}`).catch(() => {}); // it goes by itself after a day
    this.dialog.close();
  }

  #busy(is) {
    this.part("go").disabled = is;
    this.part("progress").hidden = !is;
    for (const name of ["folder", "files"]) this.part(name).disabled = is;
    $("#upload-name", this.dialog).disabled = is;
    this.dialog.setAttribute("aria-busy", String(is));
  }

  #say(text) {
    this.part("status").textContent = text;
  }

  #fail(text) {
    this.part("error").textContent = text;
    this.part("error").hidden = !text;
  }

  #reset() {
    this.#chosen = this.#key = null;
    this.#done = false;
    this.#busy(false);
    this.#fail("");
    this.#say("");
    for (const name of ["chosen", "result"]) this.part(name).hidden = true;
    for (const name of ["drop", "cancel"]) this.part(name).hidden = false;
    this.part("go").textContent = gettext("Upload");
    this.part("go").disabled = true;
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new ApiError({ code: "aborted", message: "" }, 0));
    });
  });
}
