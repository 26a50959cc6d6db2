// One item, large: its picture, sound and columns, and the items like it.
import * as api from "./api.js";
import {about, find, make, refill, round, titled} from "./dom.js";
import {picture, playButton} from "./media.js";
import {holds, put, state, take} from "./state.js";

const KINDS = {image: "picture", audio: "sound", text: "title", graph: "who took it"};
let modalities = [], asking = null, opener = null;
/** Say by which modalities the store can compare items. */
export function setModalities(names) { modalities = names; }

function add(item) {
  const inside = holds(item.id);
  return make("button", {type: "button", class: "button strong", data: {focus: "add"}, onclick: (event) => {
    if (inside) take(state.bundle.find((entry) => entry.item?.id === item.id)); else put(item);
    event.target.replaceWith(add(item));
    find("details").querySelector("[data-focus=add]").focus();
  }}, inside ? "Take out of the bundle" : "Add to the bundle");
}

function similarItem({item, similarity}) {
  return make("li", {}, picture(item),
    titled(item, openDetails, item.id),
    make("span", {class: "soft small"}, similarity.toFixed(2)));
}

async function showSimilar(item, list, modality) {
  asking?.abort();
  asking = new AbortController();
  list.replaceChildren(make("li", {class: "soft"}, "…"));
  try {
    const answer = await api.similar(item.id, {modality, k: 8}, asking.signal);
    if (answer.items.length) refill(list, answer.items.map(similarItem)); else list.replaceChildren(make("li", {class: "soft whole"}, "None."));
  } catch (problem) {
    if (problem.name !== "AbortError") list.replaceChildren(make("li", {class: "soft whole"}, problem.message));
  }
}

function columns(item) {
  const rows = Object.entries(item.attributes ?? {}).filter(([name, value]) =>
    value !== null && value !== "" && !["title", "category", "price", "image", "audio", "item_id"].includes(name));
  return make("dl", {}, [["id", item.id], ...rows].map(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
}

/** Show an item in the dialog. */
export function openDetails(item) {
  const dialog = find("details"), list = make("ul", {class: "tiles"});
  const by = make("select", {"aria-label": "Alike by", onchange: () => showSimilar(item, list, by.value)},
    modalities.map((name) => make("option", {value: name}, KINDS[name] ?? name)));
  dialog.replaceChildren(
    make("div", {class: "top"}, make("h2", {id: "details-title", tabindex: "-1"}, item.title), round("cross", "Close", () => dialog.close())),
    make("div", {class: "large"}, picture(item, 512), make("div", {},
      make("p", {}, about(item)), columns(item), make("p", {class: "tools"}, add(item), playButton(item)))),
    modalities.length ? make("div", {class: "alike"}, make("h3", {}, "Items alike by ", by), list) : "",
  );
  if (!dialog.open) {
    const from = document.activeElement;
    opener = {list: from.closest("#items, #bundle-items, #answers"), key: from.dataset.focus};
    dialog.showModal();
  }
  dialog.scrollTop = 0;
  find("details-title").focus();
  if (modalities.length) showSimilar(item, list, by.value);
}

/** A click beside the dialog closes it; the focus returns to what opened it, also where that was drawn anew. */
export function start() {
  const dialog = find("details");
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    const lost = document.activeElement === document.body || dialog.contains(document.activeElement);
    if (lost) [...(opener.list?.querySelectorAll("[data-focus]") ?? [])].find((each) => each.dataset.focus === opener.key)?.focus();
  });
}
