/** Functions that make elements, never from HTML text. */

/** Returns the element of index.html with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * Makes an element.
 * @param {string} name The tag.
 * @param {Object} properties Properties such as `textContent`; names with a
 *     hyphen, such as "aria-label", are attributes.
 * @param {...(Node|string)} children
 */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

/** Shows a message in a status element; marks errors. */
export function tell(element, message) {
  const isError = message instanceof Error;
  element.classList.toggle("error", isError);
  element.textContent = isError ? message.message : message;
}

/** Formats a number with at most this many decimals. */
export const rounded = (number, digits = 2) =>
  number.toLocaleString("en", { maximumFractionDigits: digits });
