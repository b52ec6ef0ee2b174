// The launch form: "use this λ" and "use this length" fill it in place (without scripts these buttons send the form instead), and
// what a swap of its panel brings is told to readers of the screen.

import { announce } from "./announce.js";
import { keepDraft } from "./draft.js";

const form = document.querySelector("form.launch");
const value = (name) => form.elements[name];
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
