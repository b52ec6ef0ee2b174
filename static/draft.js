// What was typed into the launch form stays while this tab is open: over "Register another", Back, a reload and a refusal. It is
// kept by the form's address, so that a clone and a new run don't mix, and forgotten at the launch and at the sign-out.

import { announce } from "./announce.js";

const ASKED_ANEW = new Set(["launch.warned", "reward.accept_inverted"]); // a consent is given to what is on the page, not remembered
const key = `draft:${location.pathname}${location.search}`;

const isDraft = ({ name, type }) => name && !["submit", "file"].includes(type) && !ASKED_ANEW.has(name) && !/^(start|import)\./.test(name);
const inputs = (form) => [...form.elements].filter(isDraft);
const isTicked = ({ type }) => type === "checkbox" || type === "radio";
const nameOf = (input) => (isTicked(input) ? `${input.name}=${input.value}` : input.name);
const valueOf = (input) => (isTicked(input) ? input.checked : input.value);

function save(form) {
  sessionStorage.setItem(key, JSON.stringify(Object.fromEntries(inputs(form).map((input) => [nameOf(input), valueOf(input)]))));
}

// True when the input shows something else now. A choice that is gone (a deleted model) stays as it is.
function put(input, value) {
  if (value === undefined || value === valueOf(input)) return false;
  if (isTicked(input)) input.checked = value;
  else if (input.tagName !== "SELECT" || [...input.options].some((option) => option.value === value)) input.value = value;
  else return false;
  input.closest("details")?.setAttribute("open", "");
  return true;
}

// What the form is filled with on purpose isn't overwritten by what was typed at the same address before.
function forgetAll() {
  for (const known of Object.keys(sessionStorage)) if (known.startsWith("draft:/runs/new")) sessionStorage.removeItem(known);
}

// Fill the form with its draft, and keep what is typed from now on. A page that came back filled holds what was typed itself.
export function keepDraft(form) {
  const isFilled = document.getElementById("error-summary") !== null || form.hasAttribute("data-filled");
  const draft = JSON.parse((!isFilled && sessionStorage.getItem(key)) || "{}");
  const changed = inputs(form).filter((input) => put(input, draft[nameOf(input)]));
  if (isFilled) save(form);
  form.addEventListener("input", () => save(form));
  form.addEventListener("change", () => save(form));
  form.addEventListener("submit", ({ submitter }) => {
    if (submitter?.formAction.endsWith("/runs/new/start")) forgetAll();
    else if (!submitter?.formAction.includes("/runs/new/")) sessionStorage.removeItem(key);
  });
  document.getElementById("start-over").addEventListener("click", () => { sessionStorage.removeItem(key); location.reload(); });
  if (!changed.length) return;
  document.getElementById("draft-note").hidden = false;
  announce("The form is filled with what you typed before");
  const look = () => setTimeout(() => form.dispatchEvent(new Event("change", { bubbles: true }))); // once htmx listens
  if (document.readyState === "complete") look(); else addEventListener("load", look, { once: true });
}
