// The launch form: "use this λ" and "use this length" fill it in place (without scripts these buttons send the form instead), and
// what a swap of its panel brings is told to readers of the screen.

import { announce } from "./announce.js";
import { keepDraft } from "./draft.js";

const form = document.querySelector("form.launch");
const value = (name) => form.elements[name];
// What the form can be filled from or kept as is no setting: nothing is computed anew for it.
for (const apart of form.querySelectorAll("[data-apart]")) {
  for (const kind of ["input", "change"]) apart.addEventListener(kind, (event) => event.stopPropagation());
}
keepDraft(form);

form.addEventListener("click", (event) => {
  const button = event.target.closest("button[name='take.lambda']");
  if (!button) return;
  event.preventDefault();
  const field = value("weights.lambda");
  field.value = button.value;
  field.focus();
  field.dispatchEvent(new Event("change", { bubbles: true }));
  announce(`Temperature λ is now ${button.value}`);
});

form.addEventListener("click", (event) => {
  const button = event.target.closest("button[name^='take.tokens.']");
  if (!button) return;
  event.preventDefault();
  const field = value(button.name.replace("take.", ""));
  field.value = button.value;
  field.focus();
  field.dispatchEvent(new Event("change", { bubbles: true }));
});

// A chip leads to its field, which may be folded away, and takes it back.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  const target = link && document.getElementById(link.hash.slice(1));
  target?.closest("details")?.setAttribute("open", "");
});
form.addEventListener("click", (event) => {
  const button = event.target.closest("button[name='take.reset']");
  if (!button) return;
  event.preventDefault();
  const field = value(button.value);
  field.value = button.dataset.plain;
  announce(button.querySelector(".visually-hidden").textContent.replace("Reset", "Back again:"));
  field.dispatchEvent(new Event("change", { bubbles: true }));
});

// The summary follows every change, and what the panel and the lengths come to know. Of several answers the newest counts.
const summary = document.getElementById("summary");
let asking = 0;
async function summarise() {
  const mine = asking;
  const answer = await fetch("/runs/new/summary", { method: "POST", body: new URLSearchParams(new FormData(form)) }).catch(() => null);
  if (answer?.ok && mine === asking) summary.innerHTML = await answer.text();
}
function askSoon() {
  clearTimeout(asking);
  asking = setTimeout(summarise, 250);
}
form.addEventListener("input", askSoon);
form.addEventListener("change", askSoon);
document.addEventListener("htmx:afterSettle", ({ target }) => { if (["panel", "lengths"].includes(target.id)) askSoon(); });

// Several temperatures are several runs; the button says so.
const count = () => form.toggleAttribute("data-several", /[^,;\s][,;\s]+[^,;\s]/.test(value("weights.lambda").value));
form.addEventListener("input", count);
count();

// What the panel says in one line is said once, when it changes; who stood in what was replaced isn't thrown out of the panel.
let told = "";
let inside = false;
document.addEventListener("htmx:beforeSwap", (event) => {
  inside = event.target.id === "panel" && event.target.contains(document.activeElement);
});
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.target.id !== "panel") return;
  if (inside && document.activeElement === document.body) document.getElementById("preview-now").focus({ preventScroll: true });
  const summary = event.target.querySelector("[data-told]")?.dataset.told ?? "";
  if (summary && summary !== told) announce(summary);
  told = summary;
});
