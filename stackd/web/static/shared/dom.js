// Building elements. Text is only ever set as text: nothing here can turn a string into markup.

/**
 * What stands in an element: nothing is made of null, undefined and false.
 *
 * @typedef {{ key: string, inputs: unknown[], make: () => HTMLElement }} Memo
 * @typedef {Node | Memo | string | null | undefined | false} Piece
 * @typedef {Piece | Piece[] | Piece[][]} Child
 * @typedef {string | number | boolean | null | undefined} Value
 * @typedef {Value | Value[] | ((event: MouseEvent) => unknown)} Attribute
 */

export const numbers = new Intl.NumberFormat();

/**
 * An element with attributes and children; strings become text nodes. `class` may be a list, `click` is what a click
 * does, and what is null, undefined or false is left out.
 *
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name @param {Record<string, Attribute>} [attributes] @param {...Child} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function")
      element.onclick = (event) => void value(event); // false would cancel the click
    else if (Array.isArray(value)) element.setAttribute(key, value.filter(Boolean).join(" "));
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...pieces(children).map((each) => (isMemo(each) ? made(each) : each)));
  return element;
}

/** A button. @param {string} text @param {(event: MouseEvent) => unknown} click @param {Record<string, Attribute>} [attributes] */
export const button = (text, click, attributes = {}) => h("button", { type: "button", click, ...attributes }, text);

/** @param {string} text */
export const quiet = (text) => h("span", { class: "quiet" }, text);

/**
 * A child with a key that is made again only when one of its inputs is another one.
 *
 * @param {string} key @param {unknown[]} inputs @param {() => HTMLElement} make
 * @returns {Memo}
 */
export const memo = (key, inputs, make) => ({ key, inputs, make });
/** @type {WeakMap<Node, unknown[]>} */
const inputsOf = new WeakMap();

/**
 * Make these the children of an element, touching the page only where it differs: a child with the same key, or with no
 * key and of the same kind at the same place, stays, with its focus and with what was typed into it.
 *
 * @template {Element} Any
 * @param {Any} element @param {...Child} children
 */
export function show(element, ...children) {
  const wanted = pieces(children).map((each) => (typeof each === "string" ? new Text(each) : each));
  const keys = new Set(wanted.map(keyOf));
  const focused = document.activeElement;
  /** @type {Map<string, ChildNode>} */
  const kept = new Map();
  for (const each of [...element.childNodes]) {
    const key = keyOf(each);
    if (key && keys.has(key)) kept.set(key, each);
    else if (key) each.remove();
  }
  let next = element.firstChild;
  for (const each of wanted) {
    const key = keyOf(each);
    const same = !key && next && !isMemo(each) && !keyOf(next) && next.nodeName === each.nodeName;
    const there = key ? kept.get(key) : same ? next : null;
    if (there && there === next) next = next.nextSibling;
    else element.insertBefore(there ?? (isMemo(each) ? made(each) : each), next);
    if (there) change(there, each);
  }
  while (next) {
    const after = next.nextSibling;
    next.remove();
    next = after;
  }
  if (focused !== document.activeElement && focused instanceof HTMLElement && focused.isConnected)
    focused.focus({ preventScroll: true }); // it was moved, and lost it
  return element;
}

/**
 * These in their order; while somebody points at the element or has the focus in it, in the order that they have there, with
 * what is gone, and what is new at the end.
 *
 * @param {Element} element @param {Memo[]} memos @returns {Piece[]}
 */
export function steady(element, memos) {
  if (!element.matches(":hover, :focus-within")) return memos;
  const wanted = new Map(memos.map((each) => [each.key, each]));
  const kept = [...element.children].map((each) => wanted.get(keyOf(each) ?? "") ?? each);
  return [...kept, ...memos.filter((each) => !kept.includes(each))];
}

/** @param {Memo} memo */
function made(memo) {
  const element = memo.make();
  element.dataset.key = memo.key;
  inputsOf.set(element, memo.inputs);
  return element;
}

/** Make a node what another one of its kind is. @param {Node} there @param {Node | Memo} other */
function change(there, other) {
  if (there === other) return;
  if (isMemo(other) && inputsOf.get(there)?.every((each, place) => each === other.inputs[place])) return;
  const wanted = isMemo(other) ? made(other) : other;
  if (isMemo(other)) inputsOf.set(there, other.inputs);
  if (there instanceof HTMLElement && wanted instanceof HTMLElement) {
    for (const name of there.getAttributeNames()) if (!wanted.hasAttribute(name)) there.removeAttribute(name);
    for (const { name, value } of wanted.attributes) {
      if (name === "style")
        there.style.cssText = wanted.style.cssText; // the page's policy forbids the attribute
      else if (there.getAttribute(name) !== value) there.setAttribute(name, value);
    }
    there.onclick = wanted.onclick;
    if (there instanceof HTMLInputElement && wanted instanceof HTMLInputElement) {
      there.checked = wanted.checked;
      there.indeterminate = wanted.indeterminate;
    }
    show(there, ...wanted.childNodes);
  } else if (there.nodeValue !== wanted.nodeValue) there.nodeValue = wanted.nodeValue;
}

/** @param {Node | Memo} node */
function keyOf(node) {
  return isMemo(node) ? node.key : node instanceof HTMLElement ? node.dataset.key : undefined;
}

/** @param {Exclude<Piece, null | undefined | false>} piece @returns {piece is Memo} */
function isMemo(piece) {
  return typeof piece === "object" && "make" in piece;
}

/** @param {Child[]} children */
function pieces(children) {
  return children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Work that is done now, or soon: so many milliseconds after the last time, once for all who ask. @param {number} pause @param {() => void} work */
export function paced(pause, work) {
  let last = 0;
  /** @type {number | undefined} */
  let timer;
  const now = () => {
    clearTimeout(timer);
    timer = undefined;
    last = performance.now();
    work();
  };
  return { now, soon: () => (timer ??= setTimeout(now, Math.max(0, last + pause - performance.now()))) };
}

/** Set an element's text, touching the page only where it differs. @template {Element} Any @param {Any} element @param {string} text */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

/** The element of the page with this id. @param {string} id */
export const at = (id) => found(id, HTMLElement);

/**
 * The element of the page with this id, and of this kind.
 *
 * @template {typeof HTMLElement} Kind
 * @param {string} id @param {Kind} kind
 * @returns {InstanceType<Kind>}
 */
export function found(id, kind) {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`the page has no #${id}`);
  return /** @type {InstanceType<Kind>} */ (element);
}

/** Copy a text and say so. @param {string} text @param {(words: string) => void} tell */
export async function copy(text, tell) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const focused = document.activeElement;
    const area = h("textarea", { class: "unseen", "aria-hidden": "true" }); // a page without TLS has no clipboard
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area); // a dialog makes the rest inert
    area.select();
    document.execCommand("copy");
    area.remove();
    if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
  }
  tell(`copied ${text}`);
}

/** One line of text whose `code` and *emphasis* are elements. @param {string} text */
export function inline(text) {
  return text.split(/(`[^`]+`|\*[^*]+\*)/).map((part) => {
    if (part.startsWith("`")) return h("code", {}, part.slice(1, -1));
    if (part.length > 2 && part.startsWith("*") && part.endsWith("*")) return h("em", {}, part.slice(1, -1));
    return part;
  });
}

/** Keep a length of the page's styles as high as an element. @param {string} name @param {string} id */
export function observeHeight(name, id) {
  const element = at(id);
  new ResizeObserver(() => document.body.style.setProperty(name, `${element.offsetHeight}px`)).observe(element);
}
