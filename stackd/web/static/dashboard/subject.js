// Something that others follow.

export class Subject {
  /** @type {Set<() => void>} */
  #listeners = new Set();

  /** Call the listener after each change. @param {() => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
  }

  tell() {
    for (const listener of this.#listeners) listener();
  }
}
