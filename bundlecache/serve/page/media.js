// Pictures and sounds of items.
import {media} from "./api.js";
import {icon, make} from "./dom.js";

/** The picture of an item, or its first letter where it has none; beside the title, so it says nothing of its own. */
export function picture(item, size = 256) {
  const box = make("span", {class: "picture", "aria-hidden": "true"});
  const none = () => {
    box.classList.add("none");
    box.replaceChildren([...(item.title || "?")][0].toUpperCase());
  };
  const source = item.data ? Promise.resolve(item.data) : item.image && media(`${item.image}?size=${size}`);
  if (!source) { none(); return box; }
  const image = make("img", {alt: "", loading: "lazy", decoding: "sync", draggable: "false", onerror: none});
  source.then((address) => { image.src = address; }, none);
  box.append(image);
  return box;
}

let player = null, playing = null; // the sound, and the id of its item

function show(button) {
  const on = button.dataset.sound === playing;
  button.setAttribute("aria-pressed", String(on));
  button.replaceChildren(icon(on ? "stop" : "play"));
}

function set(id) {
  player?.pause();
  playing = id;
  document.querySelectorAll(".play").forEach(show);
}

async function toggle(item) {
  if (playing === item.id) { set(null); return; }
  set(item.id);
  const stop = () => { if (playing === item.id) set(null); };
  try {
    player = new Audio(await media(item.sound));
    player.addEventListener("ended", stop);
    await player.play();
  } catch { stop(); }
}

/** A button that plays the sound of an item and stops it, or nothing where it has none. One sound at a time. */
export function playButton(item) {
  if (!item.sound) return null;
  const button = make("button", {
    type: "button", class: "play", "aria-label": `Play the sound of ${item.title}`, title: "Play the sound",
    data: {focus: `play ${item.id}`, sound: item.id},
    onclick: (event) => { event.stopPropagation(); toggle(item); },
  });
  show(button);
  return button;
}
