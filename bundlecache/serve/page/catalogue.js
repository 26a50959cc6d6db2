// The catalogue: search, filters, pages, and its items as cards that are put into the bundle.
import * as api from "./api.js";
import {about, count, find, later, make, refill, round, tell, titled} from "./dom.js";
import {openDetails} from "./details.js";
import {drag} from "./drag.js";
import {picture, playButton} from "./media.js";
import {holds, onChange, put, state, take} from "./state.js";

const SIZE = 24;
let page = 1, shown = [], last = null, pictures = false;

const form = find("search").elements;
const asked = () => ({
  q: form.q.value.trim(), category: form.category.value, min_price: form.min.value, max_price: form.max.value, page, size: SIZE,
});

/** Put an item in, or take it out again. */
export function toggle(item) {
  if (holds(item.id)) {
    take(state.bundle.find((entry) => entry.item?.id === item.id));
    tell(`${item.title} was taken out of the bundle.`);
  } else {
    put(item);
    tell(`${item.title} was put into the bundle.`);
  }
}

function card(item) {
  const inside = holds(item.id);
  const add = round(inside ? "check" : "plus", inside ? `Take ${item.title} out of the bundle` : `Add ${item.title} to the bundle`,
    (event) => { event.stopPropagation(); toggle(item); },
    {"aria-pressed": String(inside), data: {focus: `add ${item.id}`}});
  const element = make("li", {class: inside ? "item inside" : "item", onclick: () => toggle(item)},
    picture(item), add, playButton(item), titled(item, openDetails, `more ${item.id}`),
    make("span", {class: "soft small meta"}, about(item)));
  return drag(element, item);
}

const draw = () => refill(find("items"), shown.map(card));

function skeleton() {
  find("items").replaceChildren(...Array.from({length: 12}, () =>
    make("li", {class: "item waiting", "aria-hidden": "true"}, make("span", {class: "picture"}), make("span", {class: "title"}, " "))));
}

function nothing(sentence, hint, again) {
  const box = find("nothing");
  box.hidden = !sentence;
  if (!sentence) return;
  box.replaceChildren(make("p", {}, sentence), hint ? make("p", {class: "soft small"}, hint) : "",
    make("button", {type: "button", class: "button", onclick: again}, again === reset ? "Show everything" : "Try again"));
}

function reset() {
  find("search").reset();
  load(1);
  form.q.focus();
}

async function load(wanted = 1) {
  last?.abort();
  last = new AbortController();
  page = wanted;
  const list = find("items"), {signal} = last;
  list.setAttribute("aria-busy", "true");
  if (!list.children.length) skeleton();
  try {
    const answer = await api.items(asked(), signal);
    shown = answer.items;
    pictures ||= shown.some((item) => item.image);
    document.body.classList.toggle("blind", !pictures && shown.length > 0);
    draw();
    const how = answer.searched === "meaning" ? ", by meaning" : "";
    find("found").textContent = count(answer.total, "item") + how;
    find("pages").hidden = answer.pages < 2;
    find("page-number").textContent = `page ${answer.page} of ${answer.pages}`;
    find("back").disabled = answer.page <= 1;
    find("next").disabled = answer.page >= answer.pages;
    nothing(shown.length ? "" : "No item fits.", "Use fewer words, or a wider price.", reset);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    shown = [];
    list.replaceChildren();
    find("found").textContent = "";
    find("pages").hidden = true;
    nothing(problem.message, problem.hint, () => load(page));
  }
  list.setAttribute("aria-busy", "false");
}

/** Arrow keys go from card to card, beside the usual Tab. */
function arrows(event) {
  const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 0, ArrowUp: 0}[event.key];
  const cards = [...find("items").children], at = cards.indexOf(event.target.closest("li"));
  if (step === undefined || at < 0) return;
  const columns = cards.findIndex((each) => each.offsetTop > cards[0].offsetTop);
  const rows = columns < 0 ? cards.length : columns;
  const next = cards[at + (step || (event.key === "ArrowDown" ? rows : -rows))];
  if (!next) return;
  event.preventDefault();
  next.querySelector("button.round").focus();
}

function turn(by) {
  load(page + by).then(() => {
    find("catalogue").scrollIntoView({block: "start"});
    find("catalogue").focus({preventScroll: true});
  });
}

/** Fill the lists of categories and show the first page. */
export function start(catalogue) {
  const all = (name) => make("option", {value: ""}, name);
  const categories = () => catalogue.categories.map(({name, items}) =>
    make("option", {value: name}, `${name} (${items.toLocaleString("en")})`));
  for (const id of ["search", "options-form"]) {
    const select = find(id).elements.category;
    select.replaceChildren(all(id === "search" ? "All categories" : "any"), ...categories());
    select.closest("label").hidden = !catalogue.categories.length;
  }
  find("prices").hidden = !catalogue.prices;
  if (catalogue.prices) {
    form.min.placeholder = `from ${Math.floor(catalogue.prices.min)}`;
    form.max.placeholder = `to ${Math.ceil(catalogue.prices.max)}`;
  }
  const soon = later(200, () => load(1));
  find("search").addEventListener("input", soon);
  find("search").addEventListener("submit", (event) => { event.preventDefault(); load(1); });
  find("items").addEventListener("keydown", arrows);
  find("back").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  onChange(draw);
  return load(1);
}

/** Some item of the catalogue, for those who do not know where to begin. */
export async function randomItem() {
  const {pages} = await api.items({page: 1, size: 1});
  const {items} = await api.items({page: 1 + Math.floor(Math.random() * pages), size: 1});
  return items[0];
}
