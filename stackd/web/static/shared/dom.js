// Building elements. Text is only ever set as text: nothing here can turn a string into markup.

/**
 * What stands in an element: nothing is made of null, undefined and false.
 *
 * @typedef {Node | string | null | undefined | false} Piece
 * @typedef {Piece | Piece[] | Piece[][]} Child
 * @typedef {string | number | boolean | null | undefined} Value
 */

/**
 * An element with attributes and children; strings become text nodes. `class` may be a list, and what is null,
 * undefined or false is left out.
 *
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Record<string, Value | Value[]>} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (Array.isArray(value)) element.setAttribute(key, value.filter(Boolean).join(" "));
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...pieces(children));
  return element;
}

/**
 * A button.
 *
 * @param {string} text
 * @param {(event: MouseEvent) => unknown} clicked
 * @param {Record<string, Value | Value[]>} [attributes]
 */
export function button(text, clicked, attributes = {}) {
  const made = h("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", clicked);
  return made;
}

/**
 * Put these children in the place of all that are there.
 *
 * @template {Element} Any
 * @param {Any} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...pieces(children));
  return element;
}

/**
 * Set an element's text, touching the page only where it differs.
 *
 * @template {Element} Any
 * @param {Any} element
 * @param {string} text
 */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

/**
 * The element of the page with this id.
 *
 * @param {string} id
 */
export function at(id) {
  return found(id, HTMLElement);
}

/**
 * The element of the page with this id, and of this kind.
 *
 * @template {typeof HTMLElement} Kind
 * @param {string} id
 * @param {Kind} kind
 * @returns {InstanceType<Kind>}
 */
export function found(id, kind) {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`the page has no #${id}`);
  return /** @type {InstanceType<Kind>} */ (element);
}

/**
 * Copy a text and say so.
 *
 * @param {string} text
 * @param {(words: string) => void} tell
 */
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

const INLINE = /(`[^`]+`|\*[^*]+\*)/;

/**
 * One line of text whose `code` and *emphasis* are elements.
 *
 * @param {string} text
 */
export function inline(text) {
  return text.split(INLINE).map((part) => {
    if (part.startsWith("`")) return h("code", {}, part.slice(1, -1));
    if (part.length > 2 && part.startsWith("*") && part.endsWith("*")) return h("em", {}, part.slice(1, -1));
    return part;
  });
}

/** @param {Child[]} children */
function pieces(children) {
  return children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);
}
