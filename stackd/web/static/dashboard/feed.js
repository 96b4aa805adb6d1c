// Keeps the stacks up to date: the event stream where there is one, else the list again and again.
//
// The stream is read with fetch, because an EventSource cannot send the key in a header. It is opened before the list is
// read, so that nothing falls between the two; what arrives meanwhile waits its turn.

import { ask, Refusal, send } from "./api.js";

export const FIELDS = [
  "stack_id", "status", "status_reason", "status_message", "node_id", "node_public_ip", "ports", "created_at",
  "updated_at", "ttl_expires_at", "labels", "ended",
];
const SILENCE = 40_000; // a heartbeat comes every 15 s
const POLL = 5_000;
const STREAM_AGAIN = 30_000;
const LONGEST_PAUSE = 10_000;

export class Feed {
  #stop = new AbortController();
  #last = "";
  #failures = 0;
  #listing = null;
  #waiting = [];

  /** `told` gets: list(stacks), stack(stack), gone(id), job(job), clock(time), state(name, why). */
  constructor(told) {
    this.told = told;
  }

  start() {
    this.#run();
  }

  stop() {
    this.#stop.abort();
  }

  /** Read the list now. */
  async list() {
    const answer = await ask("GET", `/stacks?fields=${FIELDS.join(",")}`, { signal: this.#stop.signal });
    this.told.list(answer.stacks);
  }

  async #run() {
    while (!this.#stop.signal.aborted) {
      try {
        await this.#stream();
        this.#failures = 0;
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        this.#failures += 1;
        if (error instanceof Refusal && error.status === 401) return;
        if (error instanceof Refusal && error.status >= 400) {
          await this.#poll(error.message); // it answers, but has no stream for us now
          continue;
        }
        this.told.state("away", error.message);
      }
      await this.#pause(Math.min(LONGEST_PAUSE, 500 * 2 ** this.#failures) * (0.5 + Math.random() / 2));
    }
  }

  async #stream() {
    const quiet = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, quiet.signal]);
    let timer = setTimeout(() => quiet.abort(), SILENCE);
    try {
      const headers = { Accept: "text/event-stream", ...(this.#last ? { "Last-Event-ID": this.#last } : {}) };
      const answer = await send("GET", `/events?fields=${FIELDS.join(",")}`, { signal, headers });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => quiet.abort(), SILENCE);
        const blocks = (rest + value).split(/\r?\n\r?\n/);
        rest = blocks.pop();
        for (const block of blocks) this.#take(parse(block));
      }
    } catch (error) {
      if (error instanceof Refusal || this.#stop.signal.aborted) throw error;
      throw new Refusal(0, "the connection was lost");
    } finally {
      clearTimeout(timer);
      quiet.abort();
    }
  }

  #take(event) {
    if (!event) return;
    if (event.kind === "hello") {
      this.#failures = 0;
      this.told.clock(event.data.now);
      if (!this.#last || !this.#listed) this.#listAgain();
      else this.told.state("live");
      this.#last = event.id || this.#last;
    } else if (event.kind === "reset") {
      this.#listAgain();
    } else if (event.kind !== "dropped") {
      this.#last = event.id || this.#last;
      if (this.#listing) this.#waiting.push(event);
      else this.#apply(event);
    }
  }

  #listed = false;

  #listAgain() {
    this.#listing = this.#listWhole();
  }

  async #listWhole() {
    try {
      await this.list();
      this.#listed = true;
      this.told.state("live");
    } catch (error) {
      this.#listed = false;
      if (!this.#stop.signal.aborted) this.told.state("away", error.message);
    } finally {
      this.#listing = null;
      for (const event of this.#waiting.splice(0)) this.#apply(event);
    }
  }

  #apply({ kind, data }) {
    if (kind === "stack") this.told.stack(data);
    else if (kind === "deleted") this.told.gone(data.stack_id);
    else if (kind === "job") this.told.job(data);
  }

  async #poll(why) {
    const end = performance.now() + STREAM_AGAIN;
    this.#last = "";
    while (performance.now() < end && !this.#stop.signal.aborted) {
      try {
        await this.list();
        this.told.state("polling", why);
      } catch (error) {
        if (error instanceof Refusal && error.status === 401) return;
        if (!this.#stop.signal.aborted) this.told.state("away", error.message);
      }
      await this.#pause(POLL);
    }
  }

  #pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#stop.signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
  }
}

/** One event of a stream; null for a comment. */
export function parse(block) {
  const event = { kind: "message", id: "", data: null };
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") event.kind = value;
    else if (name === "id") event.id = value;
    else if (name === "data") data.push(value);
  }
  if (!data.length) return null;
  event.data = JSON.parse(data.join("\n"));
  return event;
}
