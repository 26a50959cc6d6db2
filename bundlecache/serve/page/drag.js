// Drag items into the bundle with the mouse; keys and taps have the buttons.
import {find} from "./dom.js";
import {holds, put} from "./state.js";

const KIND = "application/x-bundlecache-item";
let held = null;

/** Let an element be dragged as an item. */
export function drag(element, item) {
  element.draggable = true;
  element.addEventListener("dragstart", (event) => {
    held = item;
    event.dataTransfer.setData(KIND, item.id);
    event.dataTransfer.setData("text/plain", item.title);
    event.dataTransfer.effectAllowed = "copy";
    document.body.classList.add("dragging");
  });
  element.addEventListener("dragend", end);
  return element;
}

function end() {
  held = null;
  document.body.classList.remove("dragging");
  find("bundle").classList.remove("over");
}

/** The bundle takes what is dropped on it. */
export function start() {
  const target = find("bundle");
  target.addEventListener("dragover", (event) => {
    if (!held || holds(held.id)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    target.classList.add("over");
  });
  target.addEventListener("dragleave", (event) => {
    if (!target.contains(event.relatedTarget)) target.classList.remove("over");
  });
  target.addEventListener("drop", (event) => {
    if (!held) return;
    event.preventDefault();
    const item = held;
    end();
    put(item);
  });
}
