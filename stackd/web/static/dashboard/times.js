// Times: the daemon's clock, ages, and how long something has left.

import { h } from "../shared/dom.js";

let ahead = 0; // how far the daemon's clock is ahead of the browser's, in milliseconds

/** The daemon says what time it is. @param {string} text */
export function setClock(text) {
  const theirs = Date.parse(text);
  if (!Number.isNaN(theirs)) ahead = theirs - Date.now();
}

/** The daemon's time, in milliseconds. */
export const now = () => Date.now() + ahead;

/** A length of time in its two largest units. @param {number} milliseconds */
export function length(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const [days, hours] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24];
  const minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days}d ${hours}h`;
  if (hours) return `${hours}h ${String(minutes).padStart(2, "0")}m`;
  if (minutes) return `${minutes}m ${String(seconds % 60).padStart(2, "0")}s`;
  return `${seconds}s`;
}

/** How much time is left until then. @param {number} time */
export const left = (time) => (time === Infinity ? "no end" : time <= now() ? "due" : length(time - now()));

/** The time of day, here. @param {string | number} time */
export function clock(time) {
  const digits = /** @type {const} */ ("2-digit");
  return new Date(time).toLocaleTimeString([], { hour: digits, minute: digits, second: digits, hour12: false });
}

/** Date and time, here. @param {string} text */
export const full = (text) =>
  new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "long", hour12: false });

/** A time as an element: of day, and with its date where one points at it. @param {string} at */
export const stamp = (at) => h("time", { class: "num quiet", datetime: at, title: full(at) }, clock(at));
