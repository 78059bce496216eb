/** Prompts: the origin, the nearest words and the file of each; new ones. */

import { json, request } from "./api.js";
import { byId, filterBy, make, rounded, save, tell } from "./elements.js";

const FORMATS = [
  ["safetensors", "safetensors"],
  ["npy", "npy"],
  ["peft", "PEFT adapter, zip"],
];

let refresh = () => {};
let filter = () => {};

/**
 * Connects the forms.
 * @param {function()} onChange Called when there is another prompt, or one less.
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
async function change(name, options, done) {
  const status = byId("prompts-status");
  try {
    await request(`/v1/prompts/${encodeURIComponent(name)}`, options);
    await refresh();
    tell(status, `${name} ${done}.`);
  } catch (error) {
    tell(status, error);
  }
}

/** Shows the prompts among the models, the first of which is the base. */
export function showModels([base, ...prompts]) {
  byId("prompt-rows").replaceChildren(...prompts.map((x) => row(x, base)));
  byId("no-prompts").hidden = prompts.length > 0;
  filter();
}

function row({ id, prompt }, base) {
  const { task, step, metric, score, length } = prompt;
  // Files count from the start of pretraining, curves from that of tuning.
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
  const words = make("button", {
    type: "button",
    textContent: "Words",
    "aria-label": `Nearest words of ${name}`,
  });
  words.addEventListener("click", () => showWords(name, words));
  const format = make(
    "select",
    { "aria-label": `Format of the file of ${name}` },
    ...FORMATS.map(([value, textContent]) =>
      make("option", { value, textContent }),
    ),
  );
  const get = make("button", {
    type: "button",
    textContent: "Download",
    "aria-label": `Download ${name}`,
  });
  get.addEventListener("click", () => download(name, format.value));
  const remove = make("button", {
    type: "button",
    textContent: "Delete",
    "aria-label": `Delete ${name}`,
  });
  remove.addEventListener("click", () => {
    if (confirm(`Delete the prompt ${name} from the server?`)) {
      change(name, { method: "DELETE" }, "is deleted");
    }
  });
  return [words, format, get, remove];
}

async function showWords(name, opener) {
  const status = byId("prompts-status");
  const panel = byId("words");
  try {
    const path = `/v1/prompts/${encodeURIComponent(name)}/words`;
    const { positions, embedding_norm: norm } = await json(path);
    tell(status, "");
    const title = make("h3", {
      textContent: `Nearest words of ${name}`,
      tabIndex: -1,
    });
    const close = make("button", { type: "button", textContent: "Close" });
    close.addEventListener("click", () => {
      panel.hidden = true;
      opener.focus();
    });
    panel.replaceChildren(
      title,
      make("p", {
        className: "quiet",
        textContent:
          "By cosine, for each position. The vocabulary's vectors have a " +
          `norm of ${rounded(norm, 1)}, on average.`,
      }),
      wordTable(positions),
      make("p", {}, close),
    );
    panel.hidden = false;
    title.focus();
  } catch (error) {
    tell(status, error);
  }
}

function wordTable(positions) {
  const heads = ["Position", "Norm", "Words, cosine"].map((textContent) =>
    make("th", { scope: "col", textContent }),
  );
  const rows = positions.map(({ norm, words }, i) =>
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
    ),
  );
  const table = make(
    "table",
    {},
    make("thead", {}, make("tr", {}, ...heads)),
    make("tbody", {}, ...rows),
  );
  const labels = { className: "scroll", tabIndex: 0, role: "region" };
  return make("div", { ...labels, "aria-label": "Nearest words" }, table);
}

async function download(name, format) {
  const status = byId("prompts-status");
  try {
    const path = `/v1/prompts/${encodeURIComponent(name)}?format=${format}`;
    // Not a link, which would send no key.
    const file = await (await request(path)).blob();
    save(file, `${name}.${format === "peft" ? "zip" : format}`);
    tell(status, `${name}: ${rounded(file.size, 0)} bytes.`);
  } catch (error) {
    tell(status, error);
  }
}
