/** Many inputs: each chosen model adds a column of answers to a CSV file. */

import { json } from "./api.js";
import { byId, fill, make, onSubmit, save, tell } from "./elements.js";

const AT_ONCE = 16; // Inputs per request.
const SHOWN = 20; // Rows shown on the page.

let rows = []; // The rows of the file, starting with the header.

/**
 * Connects the form.
 * @param {function(): Object} settings Returns the chosen models, labels and
 *     options; throws an error if no model is chosen.
 */
export function start(settings) {
  byId("table-file").addEventListener("change", read);
  onSubmit(byId("table-form"), byId("table-status"), () =>
    answerAll(settings()),
  );
}

/** Parses CSV, in which quoted cells may have commas and line breaks. */
export function parse(text) {
  const found = [[]];
  const cells = /("(?:[^"]|"")*"|[^,\r\n]*)(,|\r\n?|\n|$)/g;
  for (const [, cell, end] of text.replace(/^\ufeff/, "").matchAll(cells)) {
    const isQuoted = cell.startsWith('"');
    found
      .at(-1)
      .push(isQuoted ? cell.slice(1, -1).replaceAll('""', '"') : cell);
    if (!end) break;
    if (end !== ",") found.push([]);
  }
  return found.filter((row) => row.length > 1 || row[0]);
}

const line = (row) =>
  row.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",");

async function read() {
  const [file] = byId("table-file").files;
  rows = file ? parse(await file.text()) : [];
  const options = (rows[0] ?? []).map((name, i) =>
    make("option", { value: i, textContent: name }),
  );
  byId("column").replaceChildren(...options);
  tell(byId("table-status"), `${Math.max(0, rows.length - 1)} inputs.`);
}

async function answerAll({ models, labels, options }) {
  const [header, ...body] = rows;
  const inputs = body.map((row) => row[byId("column").value] ?? "");
  let done = 0;
  const columns = await Promise.all(
    models.map(async (model) => {
      const answers = [];
      for (let start = 0; start < inputs.length; start += AT_ONCE) {
        const prompt = inputs.slice(start, start + AT_ONCE);
        const ask = () => answersOf(model, prompt, labels, options);
        answers.push(...(await untilAnswered(ask)));
        done += prompt.length;
        tell(
          byId("table-status"),
          `${done} of ${inputs.length * models.length} answers.`,
        );
      }
      return answers;
    }),
  );
  const heads = [...header, ...models];
  const all = body.map((row, i) => [
    ...header.map((_, at) => row[at] ?? ""),
    ...columns.map((column) => column[i]),
  ]);
  fill(byId("table"), heads, all.slice(0, SHOWN));
  byId("table-region").hidden = false;
  const [file] = byId("table-file").files;
  const name = file.name.replace(/(\.csv)?$/i, "-answers.csv");
  const button = byId("table-save");
  button.hidden = false;
  button.onclick = () =>
    save(new Blob([[heads, ...all].map(line).join("\r\n")]), name);
}

/** Retries while the server, or this key's quota, has no room. */
async function untilAnswered(ask) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (error.status !== 429 || !error.seconds) throw error;
      tell(byId("table-status"), error);
      await new Promise((done) => setTimeout(done, 1000 * error.seconds));
    }
  }
}

/** Returns the answer to each input, or the likeliest label. */
async function answersOf(model, prompt, labels, options) {
  if (labels.length) {
    const { data } = await json("/v1/rank", { model, prompt, labels });
    return data.map((row) => row.labels[0].label);
  }
  const body = { model, prompt, ...options };
  const { choices } = await json("/v1/completions", body);
  return choices.map((choice) => choice.text);
}
