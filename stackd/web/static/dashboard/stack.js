// One stack, as the API tells of it and as the page needs it.

/**
 * A stack as the API returns it, and what the page needs beside that.
 *
 * @typedef {"running" | "creating" | "failed" | "stopped" | "node_deleted"} Status
 * @typedef {Record<string, string>} Values
 * @typedef {{ container_port: number, protocol: string, node_port: number }} Port
 * @typedef {object} StackData
 * @property {string} stack_id
 * @property {Status} status
 * @property {string | null} [status_reason]
 * @property {string | null} [status_message]
 * @property {string | null} [node_id]
 * @property {string | null} [node_public_ip]
 * @property {Port[]} [ports]
 * @property {string} created_at
 * @property {string} updated_at
 * @property {string} ttl_expires_at
 * @property {Record<string, string>} [labels]
 * @property {boolean} [ended]
 * @property {string} [template]
 * @property {Values} [values]
 *
 * @typedef {object} Prepared
 * @property {string[]} labelled
 * @property {string[]} addresses
 * @property {string} address
 * @property {string} haystack
 * @typedef {StackData & Prepared} Stack
 */

/** @type {Status[]} */
export const STATUSES = ["running", "creating", "failed", "stopped", "node_deleted"];
/** @type {Record<Status, string>} */
export const WORDS = {
  running: "running",
  creating: "creating",
  failed: "failed",
  stopped: "stopped",
  node_deleted: "node gone",
};

/**
 * A stack with what the page needs of it.
 *
 * @param {StackData} stack
 * @returns {Stack}
 */
export function prepare(stack) {
  const labels = Object.entries(stack.labels ?? {}).map(([name, value]) => `${name}=${value}`);
  const addresses = addressesOf(stack);
  const { stack_id: id, status, status_reason: reason, status_message: message, node_id: node, template } = stack;
  const searched = [id, status, WORDS[status], reason, message, node, template, ...addresses, ...labels];
  return {
    ...stack,
    labelled: labels,
    addresses,
    address: addresses[0] ?? "",
    haystack: searched.filter(Boolean).join(" ").toLowerCase(),
  };
}

/**
 * Where a stack is reached: `address:port` for each of its ports.
 *
 * @param {StackData} stack
 */
export function addressesOf(stack) {
  const host = stack.node_public_ip;
  if (!host || stack.ended) return []; // what has ended has given its ports back
  const shown = host.includes(":") ? `[${host}]` : host;
  return (stack.ports ?? []).map((port) => `${shown}:${port.node_port}`);
}

/**
 * Whether a time is before another; their fractions may differ in length.
 *
 * @param {string} one
 * @param {string} other
 */
export function isOlder(one, other) {
  return one.slice(0, -1) < other.slice(0, -1);
}
