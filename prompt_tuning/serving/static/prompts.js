/** Prompts: the origin, the nearest words and the file of each. */

import { json, request } from "./api.js";
import { byId, make, rounded, tell } from "./elements.js";

const FORMATS = [
  ["safetensors", "safetensors"],
  ["npy", "npy"],
  ["peft", "PEFT adapter, zip"],
];

/** Shows the prompts among the models. */
export function showModels(models) {
  const prompts = models.filter((model) => model.parent);
  byId("prompt-rows").replaceChildren(...prompts.map(row));
  byId("no-prompts").hidden = prompts.length > 0;
}

function row({ id, parent, prompt }) {
  const { task, step, metric, score, length } = prompt;
  const scored = score == null ? "–" : rounded(score, 1);
  const title = metric ?? "";
  return make(
    "tr",
    {},
    make("th", { scope: "row", textContent: id }),
    make("td", { textContent: task ?? "unknown" }),
    make("td", { textContent: parent, title: prompt.base_fingerprint ?? "" }),
    make("td", { className: "number", textContent: step ?? "–" }),
    make("td", { className: "number", title, textContent: scored }),
    make("td", { className: "number", textContent: length }),
    make("td", { className: "buttons" }, ...controls(id)),
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
  return [words, format, get];
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
    const href = URL.createObjectURL(file);
    const suffix = format === "peft" ? "zip" : format;
    make("a", { href, download: `${name}.${suffix}` }).click();
    URL.revokeObjectURL(href);
    tell(status, `${name}: ${rounded(file.size, 0)} bytes.`);
  } catch (error) {
    tell(status, error);
  }
}
