// The pictures that the page offers to try.

import { askExample } from "./api.js";

const MOST = 7; // beside the button for all of them

/**
 * Offer pictures.
 *
 * @param {HTMLElement} root holds the list, and is hidden where there is nothing to offer.
 * @param {string[]} names of the gateway's examples.
 * @param {(files: File[]) => void} take
 * @param {() => void} lost called where one could not be fetched.
 */
export function offer(root, names, take, lost) {
  const items = names.slice(0, MOST).map((name, index) => {
    const image = document.createElement("img");
    image.alt = "";
    image.src = `api/examples/${encodeURIComponent(name)}`;
    const button = buttonFor([name], take, lost);
    button.setAttribute("aria-label", `Example ${index + 1}`);
    button.append(image);
    return itemOf(button);
  });
  if (names.length > 1) {
    const button = buttonFor(names, take, lost);
    button.textContent = `All ${names.length}`;
    items.push(itemOf(button));
  }
  root.querySelector("ul").replaceChildren(...items);
  root.hidden = names.length === 0;
}

function buttonFor(names, take, lost) {
  const button = document.createElement("button");
  button.type = "button";
  button.addEventListener("click", () => Promise.all(names.map(askExample)).then(take, lost));
  return button;
}

function itemOf(button) {
  const item = document.createElement("li");
  item.append(button);
  return item;
}
