// Take the bundle elsewhere: a link, a saved bundle of this browser, a JSON file or a CSV file.
import {latest} from "./completions.js";
import {find, make, refill, round, toast} from "./dom.js";
import {address, onChange, save, saved, state} from "./state.js";

const COLUMNS = ["part", "run", "rank", "item_id", "title", "category", "price", "probability"];

/** A cell of a CSV file; a text that a spreadsheet would run as a formula starts with an apostrophe. */
export function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const plain = (item) => ({item_id: item.id ?? null, title: item.title, category: item.category ?? null, price: item.price ?? null});
const bundle = () => state.bundle.map(({item, own}) => plain(item ?? own));
const answers = () => latest().filter((each) => !(each instanceof Error)).map((each) => ({
  run: each.run, method: each.method, store_version: each.store_version,
  completions: each.completions.map((one) => ({rank: one.rank, probability: one.probability, ...plain(one.item)})),
}));

function csv() {
  const rows = [
    ...bundle().map((item) => ({part: "bundle", ...item})),
    ...answers().flatMap((each) => each.completions.map((one) => ({part: "completion", run: each.run ?? each.method, ...one}))),
  ];
  return [COLUMNS, ...rows.map((row) => COLUMNS.map((name) => row[name]))].map((row) => row.map(cell).join(",") + "\r\n").join("");
}

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], {type}));
  make("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  toast(`${name} is saved.`);
}

const link = () => location.origin + location.pathname + address();

async function copy() {
  const own = state.bundle.some((entry) => entry.own?.image) ? " Your own pictures are not in it." : "";
  try {
    await navigator.clipboard.writeText(link());
    toast(`The link is copied.${own}`);
  } catch {
    toast(`Copy the address of this page: it holds the bundle.${own}`);
  }
}

const titles = () => state.bundle.map(({item, own}) => (item ?? own).title);
function keep() {
  const hash = address(), others = saved().filter((each) => each.hash !== hash);
  const name = titles().slice(0, 3).join(", ") + (state.bundle.length > 3 ? ` and ${state.bundle.length - 3} more` : "");
  try {
    save([{name, hash}, ...others].slice(0, 50));
    find("saved").open = true;
    toast("The bundle is saved in this browser.");
  } catch {
    toast("This browser does not let pages save anything; copy the link instead.");
  }
}

function draw() {
  const list = saved();
  find("saved").hidden = !list.length;
  refill(find("saved-list"), list.map((each, at) => make("li", {},
    make("a", {href: each.hash, data: {focus: `load ${at}`}}, each.name),
    round("cross", `Forget the saved bundle ${each.name}`, () => save(list.filter((other) => other !== each)), {data: {focus: `forget ${at}`}}))));
}

export function start() {
  find("share").addEventListener("click", copy);
  find("save").addEventListener("click", keep);
  find("export-json").addEventListener("click", () =>
    download("bundle.json", "application/json", `${JSON.stringify({bundle: bundle(), answers: answers(), link: link()}, null, 2)}\n`));
  find("export-csv").addEventListener("click", () => download("bundle.csv", "text/csv", csv()));
  onChange(draw);
}
