/** Prompts: each one's origin, nearest words and file; and uploads. */

import { json, request } from "./api.js";
import {
  button,
  byId,
  fill,
  filterBy,
  make,
  report,
  rounded,
  save,
} from "./elements.js";

const FORMATS = [
  ["safetensors", "safetensors"],
  ["npy", "npy"],
  ["peft", "PEFT adapter, zip"],
];

let refresh = () => {};
let filter = () => {};

/**
 * Connects the forms.
 * @param {function()} onChange Called when a prompt was added or deleted.
 */
export function start(onChange) {
  refresh = onChange;
  filter = filterBy(byId("prompt-filter"), () => byId("prompt-rows").children);
  byId("prompt-file").addEventListener("change", () => {
    const [file] = byId("prompt-file").files;
    byId("prompt-name").value = file?.name.replace(/\.[^.]*$/, "") ?? "";
  });
  byId("prompt-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const [body] = byId("prompt-file").files;
    change(byId("prompt-name").value, { method: "PUT", body }, "is stored");
  });
}

/** Changes a prompt on the server, and shows the new list. */
const change = (name, options, done) =>
  report(byId("prompts-status"), async () => {
    await request(pathOf(name), options);
    await refresh();
    return `${name} ${done}.`;
  });

const pathOf = (name) => `/v1/prompts/${encodeURIComponent(name)}`;

/** Shows the prompts among the models; the first model is the base. */
export function showModels([base, ...prompts]) {
  byId("prompt-rows").replaceChildren(...prompts.map((x) => row(x, base)));
  byId("no-prompts").hidden = prompts.length > 0;
  filter();
}

function row({ id, prompt }, base) {
  const { task, step, metric, score, length } = prompt;
  // Files count steps from the start of pretraining, curves from tuning's.
  const tuned = step == null ? "–" : rounded(step - base.step, 0);
  const scored = score == null ? "–" : rounded(score, 1);
  const title = metric ?? "";
  return make(
    "tr",
    { "data-words": `${id} ${task}` },
    make("th", { scope: "row", textContent: id }),
    make("td", { textContent: task ?? "unknown" }),
    make("td", { className: "number extra", textContent: tuned }),
    make("td", { className: "number", title, textContent: scored }),
    make("td", { className: "number extra", textContent: length }),
    make("td", {}, make("div", { className: "buttons" }, ...controls(id))),
  );
}

function controls(name) {
  const words = button("Words", () => showWords(name, words), {
    "aria-label": `Nearest words of ${name}`,
  });
  const format = make(
    "select",
    { "aria-label": `Format of the file of ${name}` },
    ...FORMATS.map(([value, textContent]) =>
      make("option", { value, textContent }),
    ),
  );
  const get = button("Download", () => download(name, format.value), {
    "aria-label": `Download ${name}`,
  });
  const remove = () => {
    if (confirm(`Delete the prompt ${name} from the server?`)) {
      change(name, { method: "DELETE" }, "is deleted");
    }
  };
  const label = { "aria-label": `Delete ${name}` };
  return [words, format, get, button("Delete", remove, label)];
}

const showWords = (name, opener) =>
  report(byId("prompts-status"), async () => {
    const { positions, embedding_norm } = await json(`${pathOf(name)}/words`);
    const title = byId("words-title");
    title.textContent = `Nearest words of ${name}`;
    byId("words-norm").textContent = rounded(embedding_norm, 1);
    const heads = ["Position", "Norm", "Words, cosine"];
    const [body] = fill(byId("words-table"), heads, []).tBodies;
    body.append(...positions.map(wordRow));
    byId("words-close").onclick = () => {
      byId("words").hidden = true;
      opener.focus();
    };
    byId("words").hidden = false;
    title.focus();
    return "";
  });

const wordRow = ({ norm, words }, i) =>
  make(
    "tr",
    {},
    make("th", { scope: "row", textContent: i }),
    make("td", { textContent: rounded(norm, 1) }),
    make(
      "td",
      {},
      ...words.map(({ word, cosine }) =>
        make(
          "span",
          { className: "piece" },
          make("code", { textContent: word }),
          ` ${cosine.toFixed(2)} `,
        ),
      ),
    ),
  );

const download = (name, format) =>
  report(byId("prompts-status"), async () => {
    // Not a link, because it would send no key.
    const response = await request(`${pathOf(name)}?format=${format}`);
    const file = await response.blob();
    save(file, `${name}.${format === "peft" ? "zip" : format}`);
    return `${name}: ${rounded(file.size, 0)} bytes.`;
  });
