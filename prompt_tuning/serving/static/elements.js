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

/** Makes a table of texts. */
export function table(heads, rows) {
  const cells = (name, texts, properties) =>
    make(
      "tr",
      {},
      ...texts.map((textContent) => make(name, { ...properties, textContent })),
    );
  return make(
    "table",
    {},
    make("thead", {}, cells("th", heads, { scope: "col" })),
    make("tbody", {}, ...rows.map((row) => cells("td", row))),
  );
}

/** Hides the items whose data-words lack the text of a field, at each change. */
export function filterBy(field, items) {
  const show = () => {
    const wanted = field.value.trim().toLowerCase();
    for (const item of items()) {
      item.hidden = !item.dataset.words.toLowerCase().includes(wanted);
    }
  };
  field.addEventListener("input", show);
  return show;
}

/** Has the browser save a file. */
export function save(blob, name) {
  const href = URL.createObjectURL(blob);
  make("a", { href, download: name }).click();
  URL.revokeObjectURL(href);
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
