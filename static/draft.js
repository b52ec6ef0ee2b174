// What was typed into the launch form stays while this tab is open: over "Register another", Back, a reload and a refusal. It is
// kept by the form's address, so that a clone and a new run don't mix, and forgotten at the launch and at the sign-out.

import { announce } from "./announce.js";

const ASKED_ANEW = new Set(["launch.warned", "reward.accept_inverted"]); // a consent is given to what is on the page, not remembered
const key = `draft:${location.pathname}${location.search}`;

const inputs = (form) => [...form.elements].filter(({ name, type }) => name && type !== "submit" && !ASKED_ANEW.has(name));
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

// Fill the form with its draft, and keep what is typed from now on. A page that came back with faults holds what was typed itself.
export function keepDraft(form) {
  const isRefused = document.getElementById("error-summary") !== null;
  const draft = JSON.parse((!isRefused && sessionStorage.getItem(key)) || "{}");
  const changed = inputs(form).filter((input) => put(input, draft[nameOf(input)]));
  if (isRefused) save(form);
  form.addEventListener("input", () => save(form));
  form.addEventListener("change", () => save(form));
  form.addEventListener("submit", (event) => { if (!event.submitter?.formAction.includes("/runs/new/")) sessionStorage.removeItem(key); });
  document.getElementById("start-over").addEventListener("click", () => { sessionStorage.removeItem(key); location.reload(); });
  if (!changed.length) return;
  document.getElementById("draft-note").hidden = false;
  announce("The form is filled with what you typed before");
  const look = () => setTimeout(() => form.dispatchEvent(new Event("change", { bubbles: true }))); // once htmx listens
  if (document.readyState === "complete") look(); else addEventListener("load", look, { once: true });
}
