// The completions: asked again after every change, of one run or of two side by side.
import * as api from "./api.js";
import {openDetails} from "./details.js";
import {about, bar, count, find, later, make, percent, refill, round, tell, titled, toast, words} from "./dom.js";
import {drag} from "./drag.js";
import {picture, playButton} from "./media.js";
import {allow, change, exclude, onChange, put, question, state} from "./state.js";
import {reasons} from "./why.js";

let last = null, askedFor = "", answers = [];
const open = new Set(); // the completions whose "why" is open, by run and id

/** What was answered last, for the export. */
export const latest = () => answers;

function choose(item) {
  put(item);
  tell(`${item.title} was put into the bundle.`);
}

function leaveOut(item) {
  exclude(item);
  toast(`${item.title} is left out.`, "Undo", () => {
    const again = state.excluded.find((each) => each.id === item.id);
    if (again) allow(again);
  });
}

function option(one, side, other) {
  const {item, probability: likely} = one, key = `${side} ${item.id}`, why = reasons(one.why);
  const act = state.swap ? "Put in its place:" : "Add to the bundle:";
  if (why) { why.hidden = !open.has(key); why.id = `why-${side}-${one.rank}`; }
  const reason = why && words("Why", `Why ${item.title}`, () => {
    why.hidden = !why.hidden;
    if (why.hidden) open.delete(key); else open.add(key);
    reason.setAttribute("aria-expanded", String(!why.hidden));
  }, {"aria-expanded": String(open.has(key)), "aria-controls": `why-${side}-${one.rank}`, data: {focus: `why ${side} ${one.rank}`}});
  const element = make("li", {class: "option"},
    make("span", {class: "rank", "aria-hidden": "true"}, String(one.rank)),
    picture(item),
    make("div", {class: "what"},
      titled(item, openDetails, `more ${side} ${one.rank}`),
      make("span", {class: "soft small meta"}, about(item), other ? make("span", {class: "badge"}, other) : ""),
      likely === null ? "" : make("span", {class: "likely"}, bar(likely, side ? "other" : "model"),
        make("span", {class: "figure"}, make("span", {class: "unseen"}, "probability "), percent(likely)))),
    round(state.swap ? "swap" : "plus", `${act} ${item.title}`, () => choose(item), {data: {focus: `add ${side} ${one.rank}`}}),
    make("div", {class: "acts"}, playButton(item), reason,
      words("Not this", `Not this: ${item.title}`, () => leaveOut(item), {data: {focus: `not ${side} ${one.rank}`}})),
    why);
  return drag(element, item);
}

const METHODS = {model: "the model", both: "the model and the learned ranker together", "learned-ranker": "the learned ranker"};
const by = (answer) => (answer.run ? `run ${answer.run}` : answer.method);

/** Who answered, and how often that is right: one paragraph. */
function said(answer, pair) {
  const {run, method, confidence} = answer, how = METHODS[method] ?? method;
  const sure = confidence?.questions ? [" With such a lead over the second it was right on ",
    make("b", {}, percent(confidence.right, 0)), ` of ${count(confidence.questions, "validation question")}.`] : [];
  return make("p", {class: "small soft sure"}, pair || !run ? `Ranked by ${how}.` : `Ranked by ${by(answer)}: ${how}.`, sure);
}

function column(answer, side, others) {
  if (answer instanceof Error) {
    return make("div", {class: "column"}, make("div", {class: "empty", role: "alert"}, make("p", {}, answer.message),
      answer.hint ? make("p", {class: "soft small"}, answer.hint) : "",
      make("button", {type: "button", class: "button", onclick: () => { askedFor = ""; ask(); }}, "Try again")));
  }
  const places = new Map((others?.completions ?? []).map((one) => [one.item.id, one.rank]));
  const list = make("ol", {class: "options"}, answer.completions.map((one) =>
    option(one, side, places.has(one.item.id) ? `other run: ${places.get(one.item.id)}` : "")));
  return make("div", {class: "column"},
    others ? make("h3", {class: side ? "k-b" : "k-model"}, by(answer)) : null,
    said(answer, Boolean(others)),
    answer.notes.map((note) => make("p", {class: "small note"}, note)),
    answer.completions.length ? list : make("div", {class: "empty"}, make("p", {}, "Nothing fits."), make("p", {class: "soft small"}, "Use a wider filter, or allow what was left out.")));
}

function draw() {
  const good = answers.filter((each) => !(each instanceof Error));
  const pair = answers.length === 2, box = find("answers"), both = good.length === 2;
  document.body.classList.toggle("pair", pair);
  const columns = answers.map((each, side) => column(each, side, pair ? (both ? answers[1 - side] : {completions: []}) : null));
  let agreement = null;
  if (both) {
    const ids = new Set(good[0].completions.map((one) => one.item.id));
    const common = good[1].completions.filter((one) => ids.has(one.item.id)).length;
    agreement = make("p", {class: "small"}, `Both name ${common} of ${good[0].completions.length}${good[0].completions[0]?.item.id === good[1].completions[0]?.item.id ? ", and the same first." : "."}`);
  }
  refill(box, [...(agreement ? [agreement] : []), make("div", {class: "columns"}, columns)]);
  peek(good[0]);
}

const share = (one) => (one.probability === null ? "" : percent(one.probability)); // cosines are no probabilities

/** On a phone, a bar at the bottom shows the bundle and the best completion while the catalogue is looked through. */
function peek(answer) {
  const bar = find("peek"), best = answer?.completions[0];
  bar.hidden = !state.bundle.length;
  bar.replaceChildren(make("b", {}, count(state.bundle.length, "item")),
    ...(best ? [make("span", {class: "soft"}, "next:"), picture(best.item), make("span", {class: "title"}, best.item.title), make("span", {class: "figure"}, share(best))] : []));
}

async function ask() {
  const wanted = [question(state.run), ...(state.against && state.against !== state.run ? [question(state.against)] : [])];
  const text = JSON.stringify(wanted), box = find("answers");
  find("completions").hidden = !wanted[0].items.length && !state.swap;
  if (!wanted[0].items.length) {
    last?.abort();
    askedFor = "";
    answers = [];
    box.setAttribute("aria-busy", "false");
    find("peek").hidden = !state.bundle.length;
    document.body.classList.remove("pair");
    box.replaceChildren(...(state.swap ? [make("div", {class: "empty"}, make("p", {}, "Nothing else is in the bundle, so nothing can be completed."))] : []));
    return;
  }
  if (text === askedFor) return;
  askedFor = text;
  last?.abort();
  last = new AbortController();
  const {signal} = last;
  box.setAttribute("aria-busy", "true");
  if (!box.children.length) box.replaceChildren(waiting(Number(state.k)));
  const got = await Promise.all(wanted.map((each) => api.complete(each, signal).catch((problem) => problem)));
  if (signal.aborted) return;
  answers = got;
  box.setAttribute("aria-busy", "false");
  draw();
  const [first] = got, best = first.completions?.[0];
  if (best) tell(`${count(first.completions.length, "completion")}. First: ${[best.item.title, share(best)].filter(Boolean).join(", ")}.`);
}

const waiting = (k) => make("ol", {class: "options", "aria-hidden": "true"}, Array.from({length: k}, () =>
  make("li", {class: "option waiting"}, make("span", {class: "rank"}, ""), make("span", {class: "picture"}), make("div", {class: "what"}, make("span", {class: "title"}, " ")))));

function drawOptions() {
  const {elements} = find("options-form"), chips = [];
  for (const name of ["category", "min", "max", "only", "user", "options"]) {
    if (elements[name] !== document.activeElement) elements[name].value = state[name];
  }
  if (state.category) chips.push(state.category);
  if (state.min || state.max) chips.push(`price ${state.min ? `from ${state.min}` : ""}${state.min && state.max ? " " : ""}${state.max ? `to ${state.max}` : ""}`);
  if (state.only) chips.push(state.only);
  if (state.user) chips.push(`user ${state.user}`);
  if (state.options) chips.push(`${state.options} candidates`);
  find("options-sum").textContent = chips.length ? `: ${chips.join(", ")}` : "";
  find("k").value = String(state.k);
  const left = find("excluded");
  left.hidden = !state.excluded.length;
  refill(left, state.excluded.length ? [make("p", {class: "small soft"}, "Left out:"), make("ul", {class: "chips"}, state.excluded.map((item) =>
    make("li", {}, make("button", {type: "button", class: "chip", "aria-label": `Allow ${item.title} again`, data: {focus: item.id}, onclick: () => allow(item)}, item.title, " ×"))))] : []);
  const swapped = state.swap && (state.swap.item ?? state.swap.own).title;
  find("completions-heading").textContent = swapped ? `Instead of ${swapped}` : "What completes it";
  find("swap-note").hidden = !swapped;
  find("keep").textContent = `Keep ${swapped}`;
}

export function start() {
  const form = find("options-form"), soon = later(300, () => {
    const {elements} = form;
    change(Object.fromEntries(["category", "min", "max", "only", "user", "options"].map((name) => [name, elements[name].value.trim()])), false);
  });
  form.addEventListener("input", soon);
  form.addEventListener("submit", (event) => event.preventDefault());
  find("k").addEventListener("change", (event) => change({k: Number(event.target.value)}, false));
  const keep = () => { if (state.swap) change({swap: null}, false); };
  find("keep").addEventListener("click", () => { keep(); find("completions").focus({preventScroll: true}); });
  addEventListener("keydown", (event) => { if (event.key === "Escape" && !document.querySelector("dialog[open]")) keep(); });
  const soonAsked = later(30, ask);
  onChange(() => { drawOptions(); soonAsked(); });
}
