// Said to readers of the screen, when something on the page has changed by itself.
export function announce(text) {
  document.getElementById("live").textContent = text;
}
