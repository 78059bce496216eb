/** Functions that make elements, never from HTML text. */

/** Returns the element with an id in index.html. */
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

/** Makes a button. */
export function button(textContent, onClick, properties = {}) {
  const made = make("button", { type: "button", textContent, ...properties });
  made.addEventListener("click", onClick);
  return made;
}

/** Fills a table with texts, and returns it. */
export function fill(table, heads, rows) {
  const cells = (name, texts, properties) =>
    make(
      "tr",
      {},
      ...texts.map((textContent) => make(name, { ...properties, textContent })),
    );
  table.replaceChildren(
    make("thead", {}, cells("th", heads, { scope: "col" })),
    make("tbody", {}, ...rows.map((row) => cells("td", row))),
  );
  return table;
}

/** Hides items whose data-words lack the field's text, at each change. */
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

/** Makes the browser save a file. */
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

/**
 * Runs a task; shows the message that it returns, if any, or its error.
 * @return {Promise<boolean>} Whether it succeeded.
 */
export async function report(status, task) {
  try {
    const message = await task();
    if (message !== undefined) tell(status, message);
    return true;
  } catch (error) {
    tell(status, error.name === "AbortError" ? "Stopped." : error);
    return false;
  }
}

/** Runs a task when a form is sent; disables its button; shows the error. */
export function onSubmit(form, status, task) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    event.submitter.disabled = true;
    await report(status, task);
    event.submitter.disabled = false;
  });
}

/** Formats a number with at most `digits` decimals. */
export const rounded = (number, digits = 2) =>
  number.toLocaleString("en", { maximumFractionDigits: digits });
