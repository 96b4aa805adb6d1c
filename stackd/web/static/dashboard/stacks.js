// The stacks as last heard of, which of them are shown, and in which order. Knows nothing of the page.

export const STATUSES = ["running", "creating", "failed", "stopped", "node_deleted"];
export const WORDS = {
  running: "running",
  creating: "creating",
  failed: "failed",
  stopped: "stopped",
  node_deleted: "node gone",
};

const ORDERS = {
  status: (stack) => STATUSES.indexOf(stack.status),
  id: (stack) => stack.stack_id,
  address: (stack) => stack.address,
  node: (stack) => stack.node_id ?? "",
  age: (stack) => -Date.parse(stack.created_at),
  left: (stack) => Date.parse(stack.ttl_expires_at),
};

export class Stacks {
  #all = new Map();
  #listeners = new Set();
  #pending = null;
  filter = { text: "", statuses: new Set(), node: "", label: "" };
  order = { by: "age", down: false };
  shown = [];
  arrived = false;

  /** Be told after each frame in which something changed. */
  subscribe(listener) {
    this.#listeners.add(listener);
  }

  get all() {
    return this.#all;
  }

  get(id) {
    return this.#all.get(id);
  }

  replace(stacks) {
    this.#all = new Map(stacks.map((stack) => [stack.stack_id, this.#prepared(stack)]));
    this.arrived = true;
    this.changed();
  }

  /** A stack as it was told of; what is older than what is known comes too late. */
  put(stack) {
    const known = this.#all.get(stack.stack_id);
    if (known && isOlder(stack.updated_at, known.updated_at)) return;
    this.#all.set(stack.stack_id, this.#prepared(stack));
    this.changed();
  }

  remove(id) {
    if (this.#all.delete(id)) this.changed();
  }

  clear() {
    this.#all = new Map();
    this.arrived = false;
    this.changed();
  }

  /** Change the filter; only what is given. */
  narrow(part) {
    Object.assign(this.filter, part);
    this.changed();
  }

  sort(by) {
    this.order = { by, down: this.order.by === by ? !this.order.down : false };
    this.changed();
  }

  get narrowed() {
    const { text, statuses, node, label } = this.filter;
    return Boolean(text || statuses.size || node || label);
  }

  /** Tell everybody once, with the next frame; a burst of events is one change. */
  changed() {
    this.#pending ??= requestAnimationFrame(() => {
      this.#pending = null;
      this.flush();
    });
  }

  flush() {
    this.shown = this.#select();
    for (const listener of this.#listeners) listener(this);
  }

  #select() {
    const { text, statuses, node, label } = this.filter;
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const [name, value] = split(label.trim());
    const found = [];
    for (const stack of this.#all.values()) {
      if (statuses.size && !statuses.has(stack.status)) continue;
      if (node && stack.node_id !== node) continue;
      if (name && !labelled(stack, name, value)) continue;
      if (words.length && !words.every((word) => stack.haystack.includes(word))) continue;
      found.push(stack);
    }
    const key = ORDERS[this.order.by];
    const sign = this.order.down ? -1 : 1;
    const keys = new Map(found.map((stack) => [stack, key(stack)]));
    return found.sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      return x < y ? -sign : x > y ? sign : a.stack_id < b.stack_id ? -1 : 1;
    });
  }

  #prepared(stack) {
    const labels = Object.entries(stack.labels ?? {}).map(([name, value]) => `${name}=${value}`);
    const addresses = addressesOf(stack);
    const searched = [stack.stack_id, stack.status, stack.node_id, stack.status_reason, ...addresses, ...labels];
    return {
      ...stack,
      labelled: labels,
      addresses,
      address: addresses[0] ?? "",
      haystack: searched.filter(Boolean).join(" ").toLowerCase(),
    };
  }
}

/** Where a stack is reached: `address:port` for each of its ports. */
export function addressesOf(stack) {
  const host = stack.node_public_ip;
  if (!host || stack.ended) return []; // what has ended has given its ports back
  const shown = host.includes(":") ? `[${host}]` : host;
  return (stack.ports ?? []).map((port) => `${shown}:${port.node_port}`);
}

/** Whether a time is before another; their fractions may differ in length. */
function isOlder(one, other) {
  return one.slice(0, -1) < other.slice(0, -1);
}

function split(label) {
  const equals = label.indexOf("=");
  return equals < 0 ? [label, null] : [label.slice(0, equals), label.slice(equals + 1)];
}

function labelled(stack, name, value) {
  const found = stack.labels?.[name];
  return found !== undefined && (value === null || found === value);
}
