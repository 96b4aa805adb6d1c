// Times: the daemon's clock, ages, and how long something has left.

let ahead = 0; // how far the daemon's clock is ahead of the browser's, in milliseconds

/**
 * The daemon says what time it is.
 *
 * @param {string} text
 */
export function setClock(text) {
  const theirs = Date.parse(text);
  if (!Number.isNaN(theirs)) ahead = theirs - Date.now();
}

/** The daemon's time, in milliseconds. */
export function now() {
  return Date.now() + ahead;
}

/**
 * A length of time in its two largest units.
 *
 * @param {number} milliseconds
 */
export function length(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor(seconds / 3600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days}d ${hours}h`;
  if (hours) return `${hours}h ${String(minutes).padStart(2, "0")}m`;
  if (minutes) return `${minutes}m ${String(seconds % 60).padStart(2, "0")}s`;
  return `${seconds}s`;
}

/**
 * How old something is.
 *
 * @param {string} text
 */
export function age(text) {
  return length(now() - Date.parse(text));
}

/**
 * How much time is left until then.
 *
 * @param {string} text
 */
export function left(text) {
  const rest = Date.parse(text) - now();
  return rest <= 0 ? "due" : length(rest);
}

/**
 * The time of day, here.
 *
 * @param {string | number} time
 */
export function clock(time) {
  return new Date(time).toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hour12: false,
  });
}

/**
 * Date and time, here.
 *
 * @param {string} text
 */
export function full(text) {
  return new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "long", hour12: false });
}
