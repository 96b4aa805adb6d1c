// Something that others follow.

export class Subject {
  /** @type {Set<() => void>} */
  #listeners = new Set();

  /** Call the listener after each change, until what this returns is called. @param {() => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  tell() {
    for (const listener of this.#listeners) listener();
  }
}
