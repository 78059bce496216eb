/** Requests to the server that the page came from. */

import { byId } from "./elements.js";

const KEY = "prompt_tuning_key";

/**
 * Sends a request with the key, if there is one; asks the user for a key if the
 * server needs one.
 * @throws {Error} If the request fails: with the server's message and status,
 *     and the seconds to wait if it may be sent again.
 * @return {Promise<Response>}
 */
export async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers };
    if (key) headers.Authorization = `Bearer ${key}`;
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    const { status } = response;
    if (status !== 401)
      throw Object.assign(new Error(await reason(response)), {
        status,
        seconds: Number(response.headers.get("Retry-After")),
      });
    await newKey(key);
  }
}

/** Sends a JSON body, if there is one, and returns the JSON response. */
export async function json(path, body, options = {}) {
  return (await request(path, withBody(body, options))).json();
}

/**
 * Yields the data of server-sent events, parsed, as they arrive. `EventSource`
 * can neither post nor send a key.
 */
export async function* events(path, body, options = {}) {
  const response = await request(path, withBody(body, options));
  const lines = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  // Not `for await`, which older Safari versions lack for streams.
  for (let text; !(text = await lines.read()).done; ) {
    const parts = (rest + text.value).replaceAll("\r\n", "\n").split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part
        .split("\n")
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trim())
        .join("\n");
      if (data === "[DONE]") return;
      if (!data) continue; // A comment, which keeps the connection alive.
      const event = JSON.parse(data);
      if (event.error)
        throw Object.assign(new Error(event.error.message), event.error);
      yield event;
    }
  }
}

function withBody(body, options) {
  if (body === undefined) return options;
  return {
    method: "POST",
    body: JSON.stringify(body),
    ...options,
    headers: { "Content-Type": "application/json", ...options.headers },
  };
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

let asked = null;

/** Asks once for a key to replace the refused one. */
function newKey(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return undefined;
  asked ??= ask(refused).finally(() => (asked = null));
  return asked;
}

async function ask(refused) {
  const dialog = byId("key-dialog");
  if (refused) byId("key-reason").textContent = "The server does not accept this key.";
  const field = byId("key");
  field.value = "";
  dialog.showModal();
  await new Promise((resolve) =>
    dialog.addEventListener("close", resolve, { once: true }),
  );
  if (!field.value) throw new Error("The server needs a key.");
  sessionStorage.setItem(KEY, field.value);
}
