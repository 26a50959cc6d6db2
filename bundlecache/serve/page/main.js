// The page: reads the address, and starts the parts. It uses nothing but the public API of the server.
import * as api from "./api.js";
import * as bundle from "./bundle.js";
import * as catalogue from "./catalogue.js";
import * as completions from "./completions.js";
import * as details from "./details.js";
import {find, make, percent, toast} from "./dom.js";
import * as drag from "./drag.js";
import * as share from "./share.js";
import {change, fromAddress, onChange, put, state} from "./state.js";

/** Ask for the server's token until one is given. */
function askToken(again) {
  const dialog = find("token");
  return new Promise((done) => {
    const field = make("input", {type: "password", name: "token", autocomplete: "off", required: true});
    dialog.replaceChildren(make("form", {method: "dialog", class: "form", onsubmit: () => { done(field.value.trim()); }},
      make("h2", {id: "token-title", class: "whole"}, "This server asks for a token"),
      make("p", {class: "soft whole"}, again ? "That token is not the right one." : "It is in the file that the server was started with (--token-file)."),
      make("label", {class: "whole"}, "Token ", field), make("button", {class: "button strong"}, "Go on")));
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
    field.focus();
  });
}

function problem(refusal, again) {
  const box = find("problem");
  box.hidden = !refusal;
  if (refusal) {
    box.replaceChildren(make("p", {}, make("b", {}, refusal.message), refusal.hint ? ` ${refusal.hint}` : ""),
      make("button", {type: "button", class: "button", onclick: again}, "Try again"));
  }
}

const named = (run) => `${run.name}${typeof run.hit_1 === "number" ? ` · HitRate@1 ${percent(run.hit_1, 0)}` : ""}${run.latest ? " · newest" : ""}`;

function showRuns(runs) {
  const choices = runs.map((run) => make("option", {value: run.name}, named(run)));
  const newest = runs.find((run) => run.latest) ?? runs[0];
  find("runs").hidden = runs.length < 2;
  find("run").replaceChildren(make("option", {value: ""}, newest ? `the newest (${newest.name})` : "none"), ...choices);
  find("against").replaceChildren(make("option", {value: ""}, "no other"), ...choices.map((each) => each.cloneNode(true)));
  for (const name of ["run", "against"]) find(name).addEventListener("change", (event) => change({[name]: event.target.value}, false));
  onChange(() => {
    find("run").value = state.run;
    find("against").value = state.against;
    const run = state.run || newest?.name;
    find("report").hidden = !run || Boolean(api.token()); // links cannot send a token
    find("api").hidden = Boolean(api.token());
    if (run) find("report").href = api.reportOf(run);
  });
}

async function readAddress() {
  try {
    const unknown = await fromAddress(api.item);
    if (unknown.length) toast(`Not in this catalogue, and left out of the bundle: ${unknown.join(", ")}.`);
  } catch (refusal) { problem(refusal, () => { problem(null); readAddress(); }); }
}

async function start() {
  problem(null);
  try {
    const [shop, runs] = await Promise.all([api.catalogue(), api.runs()]);
    find("shop").textContent = ` · ${shop.name}`;
    document.title = `${shop.name} – bundlecache`;
    const columns = shop.columns.filter((name) => name !== "image" && name !== "audio");
    find("only-help").textContent = `Conditions, with ; between them. Columns: ${columns.join(", ")}.`;
    find("options-form").elements.only.placeholder = shop.columns.includes("price") ? "price<50" : "column=value";
    for (const field of document.querySelectorAll(".price")) field.hidden = !shop.prices;
    details.setModalities(shop.modalities);
    for (const part of [drag, details, bundle, completions, share]) part.start(); // once: what fails above is asked again
    showRuns(runs);
    await Promise.all([catalogue.start(shop), readAddress()]);
  } catch (refusal) {
    if (!(refusal instanceof api.Refusal)) throw refusal;
    if (refusal.status !== 503) { problem(refusal, start); return; }
    problem(new api.Refusal(503, refusal.message, "This page goes on by itself."), start);
    setTimeout(start, 1000 * Math.min(refusal.wait ?? 1, 10));
  }
}

for (const link of document.querySelectorAll(".skip a, #peek")) {
  link.addEventListener("click", (event) => { // the address holds the bundle, so it is not changed
    event.preventDefault();
    const target = document.querySelector(link.getAttribute("href"));
    target.scrollIntoView();
    target.focus({preventScroll: true});
  });
}
const above = new IntersectionObserver(([seen]) => { find("peek").classList.toggle("away", seen.isIntersecting); }, {rootMargin: "-80px 0px"});
above.observe(document.querySelector(".side"));
find("start").addEventListener("click", async () => {
  try { put(await catalogue.randomItem()); } catch (refusal) { toast(refusal.message); }
});
addEventListener("popstate", readAddress);
api.onToken(askToken);
start();
