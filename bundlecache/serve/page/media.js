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
  const image = make("img", {alt: "", loading: "lazy", decoding: "async", draggable: "false", onerror: none});
  source.then((address) => { image.src = address; }, none);
  box.append(image);
  return box;
}

let player = null, playing = null;
const stop = () => {
  player?.pause();
  if (!playing) return;
  playing.replaceChildren(icon("play"));
  playing.setAttribute("aria-pressed", "false");
  playing = null;
};

/** A button that plays the sound of an item, or nothing where it has none. One sound at a time. */
export function playButton(item) {
  if (!item.sound) return null;
  const button = make("button", {
    type: "button", class: "play", "aria-label": `Play the sound of ${item.title}`, "aria-pressed": "false",
    title: "Play the sound", data: {focus: `play ${item.id}`},
    onclick: async (event) => {
      event.stopPropagation();
      const was = playing;
      stop();
      if (was === button) return;
      playing = button;
      button.replaceChildren(icon("stop"));
      button.setAttribute("aria-pressed", "true");
      try {
        player = new Audio(await media(item.sound));
        player.addEventListener("ended", stop);
        await player.play();
      } catch { stop(); }
    },
  }, icon("play"));
  return button;
}
