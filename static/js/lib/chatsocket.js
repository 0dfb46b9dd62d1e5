// The connection to /ws/chat: opened when needed, opened again after a loss, and then whatever ran is followed on.

const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const UNAUTHENTICATED = 4401;

export class ChatSocket {
  #socket = null;
  #following = new Set();
  #asking = new Map();
  #retries = 0;
  #next = 1;

  /** `handlers`: sync, text, progress, done (each gets the frame), lost(isSignedOut), back(). */
  constructor(path, handlers) {
    this.url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
    this.handlers = handlers;
  }

  /** Send ask, again or continue. Resolves to the `started` frame, rejects with the `error` frame. */
  async ask(frame) {
    const id = `c${this.#next++}`;
    const answer = new Promise((resolve, reject) => this.#asking.set(id, { resolve, reject }));
    try {
      const socket = await this.#connected();
      socket.send(JSON.stringify({ ...frame, id }));
    } catch {
      this.#asking.delete(id);
      throw { code: "not_connected" };
    }
    return answer;
  }

  async follow(message) {
    this.#following.add(message);
    try {
      (await this.#connected()).send(JSON.stringify({ type: "follow", message }));
    } catch {
      this.#retryLater();
    }
  }

  stop(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type: "stop", message }));
  }

  #connected() {
    if (this.#socket && this.#socket.readyState <= WebSocket.OPEN) return this.#socket.opened;
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    socket.opened = new Promise((resolve, reject) => {
      socket.addEventListener("open", () => resolve(socket));
      socket.addEventListener("close", reject);
    });
    socket.opened.catch(() => {});
    socket.addEventListener("message", (event) => this.#receive(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => this.#closed(socket, event.code));
    return socket.opened;
  }

  #receive(frame) {
    if (this.#retries) {
      this.#retries = 0;
      this.handlers.back();
    }
    const waiting = this.#asking.get(frame.id);
    if (frame.type === "started" || (frame.type === "error" && waiting)) {
      this.#asking.delete(frame.id);
      if (frame.type === "error") return waiting?.reject(frame);
      this.#following.add(frame.answer.id);
      return waiting?.resolve(frame);
    }
    if (frame.type === "done") this.#following.delete(frame.message.id);
    this.handlers[frame.type]?.(frame);
  }

  #closed(socket, code) {
    if (this.#socket !== socket) return;
    this.#socket = null;
    for (const waiting of this.#asking.values()) waiting.reject({ code: "connection_lost" });
    this.#asking.clear();
    if (code === UNAUTHENTICATED) return this.handlers.lost(true);
    if (this.#following.size) this.#retryLater();
  }

  #retryLater() {
    if (this.#retries === 0) this.handlers.lost(false);
    const delay = RETRY_MS[Math.min(this.#retries++, RETRY_MS.length - 1)];
    setTimeout(() => {
      for (const message of [...this.#following]) this.follow(message);
    }, delay);
  }
}
