// What the page is about: the bundle, what is left out, and how it is asked. All of it stands in the address (#...), so
// that a link shows the same to somebody else, and Back undoes.

const SAVED = "bundlecache-saved";
const FIELDS = ["run", "against", "category", "min", "max", "only", "user", "options"];
const START = {k: 5, swap: null, ...Object.fromEntries(FIELDS.map((name) => [name, ""]))};

/** `bundle` holds entries: {item} of the catalogue, or {own: {title, image}}; `swap` is the entry to be replaced. */
export const state = {bundle: [], excluded: [], ...START};

const hearers = [];
/** Call `hear` after every change. */
export const onChange = (hear) => hearers.push(hear);
const announce = () => hearers.forEach((hear) => hear());

export function address() {
  const fields = new URLSearchParams();
  for (const entry of state.bundle) fields.append(entry.item ? "item" : "own", entry.item ? entry.item.id : entry.own.title);
  for (const item of state.excluded) fields.append("not", item.id);
  if (state.k !== START.k) fields.set("k", state.k);
  for (const name of FIELDS) if (state[name]) fields.set(name, state[name]);
  return String(fields) ? `#${fields}` : "";
}

/** Change some of it; `step` puts it into the history of the browser. */
export function change(fields, step = true) {
  Object.assign(state, fields);
  if ("bundle" in fields) state.swap = null;
  const place = location.pathname + location.search + address();
  if (step && place !== location.pathname + location.search + location.hash) history.pushState(null, "", place);
  else history.replaceState(null, "", place);
  announce();
}

export const holds = (id) => state.bundle.some((entry) => entry.item?.id === id);
/** Put an item into the bundle, or in the place of the entry that is to be replaced. */
export function put(item) {
  const entry = {item}, {swap, bundle} = state;
  if (!holds(item.id)) change({bundle: swap ? bundle.map((each) => (each === swap ? entry : each)) : [...bundle, entry]});
}
export const putOwn = (own) => change({bundle: [...state.bundle, {own}]});
export const take = (entry) => change({bundle: state.bundle.filter((each) => each !== entry)});
export const exclude = (item) => change({excluded: [...state.excluded, item]});
export const allow = (item) => change({excluded: state.excluded.filter((each) => each !== item)});

/** What is asked: the bundle without the entry that is to be replaced. */
export function question(run) {
  const asked = state.bundle.filter((entry) => entry !== state.swap);
  const filter = [
    state.category && `category=${state.category}`,
    state.min && `price>=${state.min}`,
    state.max && `price<=${state.max}`,
    ...state.only.split(";").map((each) => each.trim()),
  ].filter(Boolean);
  const left = [...state.excluded.map((item) => item.id), ...(state.swap?.item ? [state.swap.item.id] : [])];
  return {
    items: asked.map(({item, own}) => item?.id ?? {title: own.title, image: own.image?.data ?? null}),
    k: Number(state.k), exclude: left, filter, user: state.user || null,
    ...(state.options ? {options: Number(state.options)} : {}), run: run || null, why: true,
  };
}

let reading = 0;
/** Read the address; `fetchItem` gives the item of an id. The ids that are not known are given back. */
export async function fromAddress(fetchItem) {
  const fields = new URLSearchParams(location.hash.slice(1)), unknown = [], mine = (reading += 1);
  const known = async (id) => fetchItem(id).catch((problem) => { if (problem.status !== 404) throw problem; unknown.push(id); });
  const entries = [...fields].filter(([name]) => name === "item" || name === "own").slice(0, 200);
  const bundle = await Promise.all(entries.map(async ([name, value]) => {
    if (name === "own") return state.bundle.find((entry) => entry.own?.title === value) ?? {own: {title: value, image: null}};
    const item = await known(value);
    return item && {item};
  }));
  const excluded = (await Promise.all(fields.getAll("not").slice(0, 200).map(known))).filter(Boolean);
  if (mine !== reading) return []; // a newer address was read meanwhile
  const once = new Set();
  const k = Number(fields.get("k"));
  Object.assign(state, START, Object.fromEntries(FIELDS.map((name) => [name, fields.get(name) ?? ""])), {
    k: [5, 10, 20].includes(k) ? k : START.k,
    bundle: bundle.filter((entry) => entry && (!entry.item || (!once.has(entry.item.id) && once.add(entry.item.id)))),
    excluded,
  });
  announce();
  return unknown;
}

/** Saved bundles, newest first: {name, hash}. They stay in this browser. */
export function saved() {
  try {
    const list = JSON.parse(localStorage.getItem(SAVED) ?? "[]");
    return Array.isArray(list) ? list.filter((each) => each?.name && String(each.hash).startsWith("#")) : [];
  } catch { return []; }
}

export function save(list) {
  localStorage.setItem(SAVED, JSON.stringify(list));
  announce();
}
