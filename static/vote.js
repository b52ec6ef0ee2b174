// Votes by keys: ← → ↓ b, u takes back. A vote that could not be sent is sent again until it is kept: twice is once.

import { announce } from "./announce.js";

const RETRY_MS = 1500;
const unsaved = document.getElementById("unsaved");
let since = performance.now();
let lastPressed = null;

const buttonOf = (key) => document.querySelector(`#ballot [data-key="${key.length === 1 ? key.toLowerCase() : key}"]`);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.matches("input, textarea, select")) return;
  const button = buttonOf(event.key);
  if (!button) return;
  event.preventDefault();
  button.click();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("#ballot [data-key]");
  if (!button) return;
  lastPressed = button;
  const seconds = button.form.elements.seconds;
  if (seconds) seconds.value = ((performance.now() - since) / 1000).toFixed(1);
}, true);

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "ballot") return;
  since = performance.now();
  unsaved.hidden = true;
  document.getElementById("ballot").focus({ preventScroll: true });
  announce(document.querySelector("#ballot .muted").textContent);
});

function retry() {
  unsaved.hidden = false;
  setTimeout(() => { if (lastPressed?.isConnected) lastPressed.click(); }, RETRY_MS);
}
document.addEventListener("htmx:sendError", retry);
document.addEventListener("htmx:responseError", (event) => { if (event.detail.xhr.status >= 500) retry(); });
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.status >= 500) event.detail.shouldSwap = false;
});
