// Make elements. Text from the server only ever becomes text nodes, never HTML.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  plus: "M10 4v12M4 10h12",
  check: "M4 10.5l4 4 8-9",
  cross: "M5 5l10 10M15 5L5 15",
  swap: "M4 7h12l-3.5-3.5M16 13H4l3.5 3.5",
  play: "M7 5l8 5-8 5z",
  stop: "M6 6h8v8H6z",
};

export const find = (id) => document.getElementById(id);

/** An element: properties, then children (elements, texts, or nothing). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A round button that shows an icon and says its name to a screen reader. */
export const round = (name, label, act, properties = {}) =>
  make("button", {type: "button", class: "round", "aria-label": label, title: label, onclick: act, ...properties}, icon(name));

/** A small button in words; `label` is what a screen reader says where the words alone are too short. */
export const words = (text, label, act, properties = {}) =>
  make("button", {type: "button", class: "words-button", "aria-label": label, onclick: act, ...properties}, text);

/** The title of an item as a button, which does `act`. */
export const titled = (item, act, focus) => make("button", {
  type: "button", class: "title", title: item.title, "aria-haspopup": "dialog", data: {focus},
  onclick: (event) => { event.stopPropagation(); act(item); },
}, item.title);

/** A horizontal bar for a share between 0 and 1; the figure beside it is what is read out. */
export function bar(share, kind = "") {
  const fill = make("i", {class: kind});
  fill.style.width = `${Math.min(100, Math.max(0, 100 * share))}%`;
  return make("span", {class: "track", "aria-hidden": "true"}, fill);
}

export const percent = (share, digits = share < 0.0995 ? 1 : 0) =>
  share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(digits)} %`;
const amount = new Intl.NumberFormat("en", {minimumFractionDigits: 2, maximumFractionDigits: 2});
const whole = new Intl.NumberFormat("en");
export const price = (value) => (value === null || value === undefined ? "" : amount.format(value));
export const count = (n, one, many = `${one}s`) => `${whole.format(n)} ${n === 1 ? one : many}`;

/** Category and price of an item, in one line. */
export const about = (item) => [item.category, price(item.price)].filter(Boolean).join(" · ");

let hush;
/** Tell a screen reader, once. */
export function tell(text) {
  const told = find("told");
  told.textContent = "";
  clearTimeout(hush);
  hush = setTimeout(() => { told.textContent = text; }, 60);
}

let fade;
/** Show a short message for some seconds, with one thing to do about it. */
export function toast(text, action, act) {
  const box = find("toast");
  const close = () => { box.hidden = true; };
  box.replaceChildren(text, ...(action ? [make("button", {type: "button", onclick: () => { close(); act(); }}, action)] : []));
  box.hidden = false;
  tell(text);
  clearTimeout(fade);
  fade = setTimeout(() => { if (!box.matches(":hover, :focus-within")) close(); }, action ? 8000 : 3500);
}

/** Wait until there was no call for a while, then call with the last arguments. */
export function later(milliseconds, act) {
  let waiting;
  return (...given) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => act(...given), milliseconds);
  };
}

/** Replace the children of a list; the focus stays on the button that says it has the same `data-focus`. */
export function refill(list, children) {
  const key = list.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  list.replaceChildren(...children);
  if (key === undefined) return;
  const again = [...list.querySelectorAll("[data-focus]")].find((each) => each.dataset.focus === key);
  (again ?? list.querySelector("[data-focus]") ?? list.closest("section, dialog"))?.focus({preventScroll: true});
}
