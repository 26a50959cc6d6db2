// Ask the server. All addresses are relative to the page, so that it also works below a path of a proxy.

const TOKEN = "bundlecache-token";

/** One sentence of the server, with what to do about it. */
export class Refusal extends Error {
  constructor(status, sentence, hint, wait) {
    super(sentence);
    Object.assign(this, {status, hint, wait});
  }
}

export const address = (path) => new URL(String(path).replace(/^\/+/, ""), document.baseURI).href;
const quoted = encodeURIComponent;

let asking = null;
let askToken = () => Promise.resolve("");
/** Say how a person is asked for the server's token: a function that gives a promise of it. */
export function onToken(ask) { askToken = ask; }

export const token = () => sessionStorage.getItem(TOKEN);
const head = () => (token() ? {Authorization: `Bearer ${token()}`} : {});

async function answered(path, how = {}) {
  let reply;
  try {
    reply = await fetch(address(path), {...how, headers: {...how.headers, ...head()}});
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Refusal(0, "The server does not answer.", "see whether `bundlecache serve` still runs");
  }
  if (reply.status === 401) {
    asking ??= askToken(Boolean(token())).finally(() => { asking = null; });
    sessionStorage.setItem(TOKEN, await asking);
    return answered(path, how);
  }
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => ({}));
  const sentence = typeof said.error === "string" ? said.error : `The server answered ${reply.status}.`;
  throw new Refusal(reply.status, sentence, said.hint ?? null, Number(reply.headers.get("Retry-After")) || null);
}

const json = async (path, how) => (await answered(path, how)).json();
const query = (given) => {
  const kept = Object.entries(given).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
};

export const catalogue = () => json("catalogue");
export const runs = () => json("runs");
export const items = (asked, signal) => json(`items${query(asked)}`, {signal});
const known = new Map(); // items by id, so that Back and Forward ask nothing again
/** One item; an unknown id is a Refusal of status 404. */
export async function item(id) {
  if (!known.has(id)) known.set(id, await json(`items/${quoted(id)}`));
  return known.get(id);
}
export const similar = (id, asked, signal) => json(`similar/${quoted(id)}${query(asked)}`, {signal});
export const reportOf = (run) => address(`runs/${quoted(run)}/report`);

/** Completions; where the server is busy, asked again after the time it gives, at most three times. */
export async function complete(body, signal) {
  for (let left = 3; ; left -= 1) {
    try {
      const how = {method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json"}, signal};
      return await json("complete", how);
    } catch (problem) {
      if (problem.status !== 429 || !left) throw problem;
      await new Promise((go) => { setTimeout(go, 1000 * Math.min(problem.wait ?? 1, 10)); });
      signal?.throwIfAborted();
    }
  }
}

const KEPT_FILES = 500;
const files = new Map(); // what was fetched with the token, by path, the oldest first
/** An address that <img> and <audio> can load: they cannot send a token, so with one the file is fetched here. */
export function media(path) {
  if (!token()) return Promise.resolve(address(path));
  if (!files.has(path)) {
    const file = answered(path).then((reply) => reply.blob()).then((blob) => URL.createObjectURL(blob));
    file.catch(() => files.delete(path)); // asked again when it is next shown
    files.set(path, file);
    if (files.size > KEPT_FILES) {
      const [oldest, gone] = files.entries().next().value;
      files.delete(oldest);
      gone.then(URL.revokeObjectURL, () => {});
    }
  }
  return files.get(path);
}
