/** Makes elements: no HTML is put together as text. */

/** Returns the element of an id of index.html. */
export const byId = (id) => document.getElementById(id);

/**
 * Makes an element.
 * @param {string} name Of its tag.
 * @param {Object} properties Of the object, such as `textContent`; those with
 *     a hyphen, such as "aria-label", are attributes.
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

/** Shows a message where a status is told; an error is marked as one. */
export function tell(element, message) {
  const isError = message instanceof Error;
  element.classList.toggle("error", isError);
  element.textContent = isError ? message.message : message;
}

/** Writes a number with at most so many digits behind the point. */
export const rounded = (number, digits = 2) =>
  number.toLocaleString("en", { maximumFractionDigits: digits });
