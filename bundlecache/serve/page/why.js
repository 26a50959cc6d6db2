// Why an item completes the bundle: what the model looked at, what is alike, and who took them together.
import {bar, count, make, percent} from "./dom.js";
import {picture} from "./media.js";

const NAMES = {image: "picture", audio: "sound", text: "title", graph: "who took it", bundles: "bundles"};
const named = (name) => NAMES[name] ?? name;

const OWN = {title: "Your own item"}; // the server has no more to say of one
const row = (item, text) => make("li", {}, picture(item ?? OWN), make("span", {class: "title"}, (item ?? OWN).title), make("span", {class: "soft figure"}, text));
const group = (heading, list) => make("div", {}, make("p", {class: "reason"}, heading), list);

/** The reasons of a completion; null where the server gave none. */
export function reasons(why) {
  const parts = [];
  if (why?.modalities?.length) {
    parts.push(group("What the model looked at", make("ul", {class: "weights"}, why.modalities.map(({name, weight}) =>
      make("li", {}, make("span", {class: "name"}, named(name)), bar(weight, "attention"), make("span", {class: "soft figure"}, percent(weight)))))));
  }
  if (why?.nearest?.length) {
    parts.push(group("Most alike in the bundle", make("ul", {class: "reason-items"}, why.nearest.map(({item, similarity, by}) =>
      row(item, `${similarity.toFixed(2)} by ${named(by)}`)))));
  }
  if (why?.together?.length) {
    parts.push(group("Taken together with", make("ul", {class: "reason-items"}, why.together.map(({item, bundles, users}) =>
      row(item, [bundles ? count(bundles, "bundle") : "", users ? count(users, "person", "people") : ""].filter(Boolean).join(", "))))));
  }
  return parts.length ? make("div", {class: "why"}, parts) : null;
}
