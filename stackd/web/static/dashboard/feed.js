// Keeps the stacks up to date: the event stream where there is one, else the list again and again.
//
// The stream is read with fetch, because an EventSource cannot send the key in a header. It is opened before the list is
// read, so that nothing falls between the two; what arrives meanwhile waits its turn.

/** @import { StackData as Stack } from "./stacks.js" */

import { ask, Refusal, send, sentence } from "./api.js";

/**
 * One event of a stream. @typedef {{ kind: string, id: string, data: any }} StreamEvent
 *
 * Who is called with what the feed receives.
 *
 * @typedef {{ list: (stacks: Stack[]) => void, stack: (stack: Stack) => void, gone: (id: string) => void,
 *   clock: (time: string) => void, state: (state: State, why?: string) => void,
 *   alive: () => void }} FeedListener
 *
 * @typedef {"live" | "polling" | "away"} State
 */

export const FIELDS =
  "stack_id,status,status_reason,status_message,node_id,addresses,problem,created_at,updated_at,ttl_expires_at," +
  "labels,template,title,shared,ended";
const SILENCE = 40_000; // a heartbeat comes every 15 s
const POLL = 5_000;
const STREAM_AGAIN = 30_000;
const LONGEST_PAUSE = 2_000;
const REST_AFTER = 20_000;
const FOREVER = 2 ** 31 - 1;

export class Feed {
  #stop = new AbortController();
  #last = "";
  #failures = 0;
  #listed = false;
  /** @type {Promise<void> | null} */
  #listing = null;
  /** @type {StreamEvent[]} */
  #waiting = [];
  /** Ends an attempt to connect, or the pause before it. */
  #cut = new AbortController();
  /** Ends the stream that is read, with the reason. */
  #lost = new AbortController();
  #connected = false;
  #resting = false;
  /** @type {number | undefined} */
  #rest;

  /** @param {FeedListener} listener */
  constructor(listener) {
    this.listener = listener;
  }

  stop() {
    clearTimeout(this.#rest);
    this.#stop.abort();
  }

  /** Try again now, without waiting for the pause to end. */
  retry() {
    if (this.#connected) return;
    this.#failures = 0;
    this.#cut.abort();
  }

  /** The page is hidden: the connection is given up after a while, for a browser has only six of them for all its tabs. */
  rest() {
    this.#rest = setTimeout(() => {
      this.#resting = true;
      this.#lost.abort(new Refusal(0, "the page is hidden"));
    }, REST_AFTER);
  }

  /** The page is visible again. */
  wake() {
    clearTimeout(this.#rest);
    this.#resting = false;
    this.retry();
  }

  /** Other requests get no answer: what this stream has sent is only the last known state. */
  doubt() {
    this.#lost.abort(new Refusal(0, "stackd does not answer"));
  }

  /** Read the list now. */
  async list() {
    const answer = await ask("GET", `/stacks?fields=${FIELDS}`, { signal: this.#stop.signal });
    this.listener.alive();
    this.listener.list(answer.stacks);
  }

  async start() {
    while (!this.#stop.signal.aborted) {
      this.#cut = new AbortController();
      if (this.#resting) {
        await this.#pause(FOREVER);
        continue;
      }
      try {
        await this.#stream();
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        this.#failures += 1;
        if (error instanceof Refusal && error.status === 401) return;
        if (error instanceof Refusal && error.status >= 400) {
          await this.#poll(error.message); // it answers, but has no stream for us now
          continue;
        }
        if (!this.#cut.signal.aborted && !this.#resting) this.listener.state("away", sentence(error));
      }
      await this.#pause(Math.min(LONGEST_PAUSE, 500 * 2 ** this.#failures) * (0.5 + Math.random() / 2));
    }
  }

  async #stream() {
    const lost = new AbortController();
    this.#lost = lost;
    const signal = AbortSignal.any([this.#stop.signal, this.#cut.signal, lost.signal]);
    const silent = () => lost.abort(new Refusal(0, "the connection was lost"));
    let timer = setTimeout(silent, SILENCE);
    try {
      const headers = { Accept: "text/event-stream", ...(this.#last ? { "Last-Event-ID": this.#last } : {}) };
      const answer = await send("GET", `/events?fields=${FIELDS}`, { signal, headers });
      if (!answer.body) return;
      this.#connected = true;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        this.listener.alive();
        clearTimeout(timer);
        timer = setTimeout(silent, SILENCE);
        const blocks = (rest + value).split(/\r?\n\r?\n/);
        rest = blocks.pop() ?? "";
        for (const block of blocks) this.#take(parse(block));
      }
    } catch (error) {
      if (error instanceof Refusal || this.#stop.signal.aborted) throw error;
      throw lost.signal.reason ?? new Refusal(0, "the connection was lost");
    } finally {
      this.#connected = false;
      clearTimeout(timer);
      lost.abort();
    }
  }

  /** @param {StreamEvent | null} event */
  #take(event) {
    if (!event) return;
    if (event.kind === "hello") {
      this.listener.clock(event.data.now);
      if (!this.#last || !this.#listed) this.#listing = this.#listAgain();
      else this.#live();
      this.#last = event.id || this.#last;
    } else if (event.kind === "reset") {
      this.#listing = this.#listAgain();
    } else if (event.kind !== "dropped") {
      this.#last = event.id || this.#last;
      if (this.#listing) this.#waiting.push(event);
      else this.#apply(event);
    }
  }

  #live() {
    this.#failures = 0;
    this.listener.state("live");
  }

  async #listAgain() {
    try {
      await this.list();
      this.#listed = true;
      this.#live();
    } catch (error) {
      this.#listed = false;
      this.#lost.abort(new Refusal(0, sentence(error))); // what the stream tells is of no use without the list
    } finally {
      this.#listing = null;
      for (const event of this.#waiting.splice(0)) this.#apply(event);
    }
  }

  /** @param {StreamEvent} event */
  #apply({ kind, data }) {
    if (kind === "stack") this.listener.stack(data);
    else if (kind === "deleted") this.listener.gone(data.stack_id);
  }

  /** @param {string} why */
  async #poll(why) {
    const end = performance.now() + STREAM_AGAIN;
    this.#last = "";
    while (performance.now() < end && !this.#stop.signal.aborted && !this.#resting) {
      let pause = POLL;
      try {
        await this.list();
        this.listener.state("polling", why);
      } catch (error) {
        if (error instanceof Refusal && error.status === 401) return;
        if (!this.#stop.signal.aborted) this.listener.state("away", sentence(error));
        pause = LONGEST_PAUSE;
      }
      await this.#pause(pause);
      if (this.#cut.signal.aborted) return;
    }
  }

  /** Wait, unless it is cut short. @param {number} milliseconds @returns {Promise<void>} */
  #pause(milliseconds) {
    const signal = AbortSignal.any([this.#stop.signal, this.#cut.signal]);
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const over = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", over);
        resolve();
      };
      const timer = setTimeout(over, milliseconds);
      signal.addEventListener("abort", over);
    });
  }
}

/** One event of a stream; null for a comment. @param {string} block @returns {StreamEvent | null} */
function parse(block) {
  const event = { kind: "message", id: "", data: null };
  /** @type {string[]} */
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
