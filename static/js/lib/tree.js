// A conversation's messages as a tree: the branch that is shown, versions beside a message, the end of a branch.

export class Tree {
  constructor(messages = []) {
    this.messages = new Map(messages.map((message) => [message.id, message]));
  }

  put(message) {
    this.messages.set(message.id, message);
  }

  get(id) {
    return this.messages.get(id);
  }

  /** From the root to `leaf`. */
  branch(leaf) {
    const found = [];
    for (let message = this.get(leaf); message; message = this.get(message.parent)) found.unshift(message);
    return found;
  }

  /** Versions of a message: children of the same parent with the same role, oldest first. */
  versions(message) {
    return [...this.messages.values()].filter((other) => other.parent === message.parent && other.role === message.role);
  }

  /** The newest end below a message. */
  end(message) {
    let at = message;
    for (;;) {
      const children = [...this.messages.values()].filter((other) => other.parent === at.id);
      if (!children.length) return at.id;
      at = children.at(-1);
    }
  }
}
