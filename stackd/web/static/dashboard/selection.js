// Which stacks are selected, for deleting many.

export class Selection {
  #ids = new Set();
  #listeners = new Set();

  subscribe(listener) {
    this.#listeners.add(listener);
  }

  get size() {
    return this.#ids.size;
  }

  get ids() {
    return [...this.#ids];
  }

  has(id) {
    return this.#ids.has(id);
  }

  toggle(id, on = !this.#ids.has(id)) {
    if (on) this.#ids.add(id);
    else this.#ids.delete(id);
    this.#tell();
  }

  /** Select these and no others. */
  only(ids) {
    this.#ids = new Set(ids);
    this.#tell();
  }

  clear() {
    if (!this.#ids.size) return;
    this.#ids.clear();
    this.#tell();
  }

  /** Forget what is no longer there. */
  keep(exists) {
    const gone = [...this.#ids].filter((id) => !exists(id));
    if (!gone.length) return;
    for (const id of gone) this.#ids.delete(id);
    this.#tell();
  }

  #tell() {
    for (const listener of this.#listeners) listener(this);
  }
}
