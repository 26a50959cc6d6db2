// The bundle: its items, taking one out, swapping one, and adding something that is not in the catalogue.
import {openDetails} from "./details.js";
import {count, find, make, price, refill, round, tell, titled, toast, words} from "./dom.js";
import {picture, playButton} from "./media.js";
import {change, onChange, putOwn, state, take} from "./state.js";

const LONGEST_SIDE_PIXELS = 512; // no encoder looks at more
let before = []; // the entries that were drawn last
const shownAs = (entry) => entry.item ?? {title: entry.own.title, data: entry.own.image?.url, image: null};

function remove(entry) {
  const whole = state.bundle;
  take(entry);
  toast(`${shownAs(entry).title} was taken out.`, "Undo", () => change({bundle: whole}));
}

function tile(entry, at) {
  const item = shownAs(entry), swapping = state.swap === entry;
  const key = entry.item ? entry.item.id : `own ${at}`;
  const swap = words(swapping ? "Keep" : "Swap", swapping ? `Keep ${item.title}` : `Swap ${item.title} for something else`,
    () => {
      change({swap: swapping ? null : entry}, false);
      if (!swapping) find("completions-heading").scrollIntoView({block: "nearest"});
    }, {"aria-pressed": String(swapping), data: {focus: `swap ${key}`}});
  const title = entry.item ? titled(item, openDetails, `more ${key}`) : make("span", {class: "title", title: item.title}, item.title);
  const kind = swapping ? "swapping" : before.length && !before.includes(entry) ? "new" : "";
  return make("li", {class: kind, onkeydown: (event) => {
    if (event.key === "Delete") remove(entry);
  }}, picture(item), round("cross", `Take ${item.title} out of the bundle`, () => remove(entry), {data: {focus: `out ${key}`}}),
  item.sound ? playButton(item) : null, title, swap);
}

function draw() {
  const {bundle} = state, prices = bundle.map((entry) => entry.item?.price).filter((each) => typeof each === "number");
  const list = find("bundle-items");
  refill(list, bundle.map(tile));
  if (bundle.length > before.length) list.scrollTop = list.scrollHeight; // what was added stands last
  before = bundle;
  find("bundle-empty").hidden = bundle.length > 0;
  find("bundle-tools").hidden = !bundle.length;
  const sum = prices.reduce((a, b) => a + b, 0), some = prices.length < bundle.length ? " +" : "";
  find("bundle-sum").textContent = bundle.length ? [count(bundle.length, "item"), prices.length ? price(sum) + some : ""].filter(Boolean).join(" · ") : "";
}

/** A picture file as a small JPEG on white: its address for <img>, and its base64 for the server. */
async function read(file) {
  const bitmap = await createImageBitmap(file), canvas = document.createElement("canvas");
  const scale = Math.min(1, LONGEST_SIDE_PIXELS / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const url = canvas.toDataURL("image/jpeg", 0.92);
  return {url, data: url.slice(url.indexOf(",") + 1)};
}

async function addOwn(event) {
  event.preventDefault();
  const form = event.target, [file] = form.elements.picture.files;
  const title = form.elements.title.value.trim() || (file?.name ?? "").replace(/\.\w+$/, "");
  if (!title) { toast("Give a title, a picture, or both."); return; }
  try {
    putOwn({title, image: file ? await read(file) : null});
  } catch {
    toast("This browser cannot read that file as a picture.");
    return;
  }
  tell(`${title} was put into the bundle.`);
  form.reset();
}

export function start() {
  find("own-form").addEventListener("submit", addOwn);
  find("clear").addEventListener("click", () => {
    const whole = state.bundle;
    change({bundle: []});
    find("bundle").focus();
    toast("The bundle is empty.", "Undo", () => change({bundle: whole}));
  });
  onChange(draw);
}
