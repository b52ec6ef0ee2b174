// What every page needs: the theme switch, questions before something is lost, copying, errors of htmx requests.

import { announce } from "./announce.js";
import { hold } from "./focus.js";

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);

document.getElementById("theme")?.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a private window keeps no choice */ }
  document.dispatchEvent(new Event("themechange"));
});
dark.addEventListener("change", () => document.dispatchEvent(new Event("themechange")));

// What was typed in this tab is nobody else's.
document.querySelector("form[action='/logout']")?.addEventListener("submit", () => sessionStorage.clear());

// <form data-confirm="Title" data-confirm-text="…" data-confirm-yes="Delete">, or the button that submits it.
const dialog = document.getElementById("confirm");
document.addEventListener("submit", (event) => {
  const form = event.target;
  const { submitter } = event;
  const asks = submitter?.dataset.confirm ? submitter : form;
  if (!asks.dataset.confirm || asks.dataset.confirmed) return;
  event.preventDefault();
  event.stopPropagation();
  dialog.querySelector("h2").textContent = asks.dataset.confirm;
  dialog.querySelector("p").textContent = asks.dataset.confirmText ?? "";
  dialog.querySelector("#confirm-yes").textContent = asks.dataset.confirmYes ?? "Yes";
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "yes") return;
    asks.dataset.confirmed = "yes";
    form.requestSubmit(submitter);
    delete asks.dataset.confirmed;
  };
  dialog.showModal();
}, true);

// A double click sends a form once, so that it launches one run.
const DOUBLE_MS = 800;
const sent = new WeakMap();
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.hasAttribute("hx-post")) return;
  const by = event.submitter ?? event.target;
  if (event.timeStamp - (sent.get(by) ?? -DOUBLE_MS) < DOUBLE_MS) event.preventDefault();
  else sent.set(by, event.timeStamp);
}, true);

// <button disabled data-unarmed>: what would act without asking is off until the question above can be put, in what comes later too.
const arm = () => document.querySelectorAll("[data-unarmed]").forEach((button) => {
  button.disabled = false;
  delete button.dataset.unarmed;
});
arm();
new MutationObserver(arm).observe(document.body, { childList: true, subtree: true });

// What was chosen before htmx was there to hear of it is told now.
document.addEventListener("htmx:load", ({ target }) => {
  for (const select of target.querySelectorAll("select[hx-get], [hx-trigger^='change'] select:not([multiple])")) {
    const before = [...select.options].find((option) => option.defaultSelected) ?? select.options[0];
    if (before && select.value !== before.value) select.dispatchEvent(new Event("change", { bubbles: true }));
  }
});

// A menu closes by Escape, and when somebody is busy elsewhere.
const closeMenus = (but) => document.querySelectorAll("details.menu[open]").forEach((menu) => {
  if (!menu.contains(but)) menu.open = false;
});
document.addEventListener("click", (event) => closeMenus(event.target));
document.addEventListener("focusin", (event) => closeMenus(event.target));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const inside = document.activeElement?.closest("details.menu[open]");
  closeMenus(null);
  inside?.querySelector("summary").focus();
});

// <button data-copy="#id"> copies that element's text.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent);
  const label = button.textContent;
  button.textContent = "Copied";
  announce("Copied");
  setTimeout(() => { button.textContent = label; }, 1500);
});

// An answer with an error is a notice to read, not something to throw away.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (xhr.status >= 400 && xhr.getResponseHeader("content-type")?.startsWith("text/html")) event.detail.shouldSwap = true;
});

// What asks for itself again and again waits while somebody is answering a question or typing in it.
const isBusy = ({ elt, requestConfig }) => requestConfig.verb === "get" && elt.hasAttribute("data-live")
  && (dialog.open || elt.querySelector("input:focus, select:focus"));
document.addEventListener("htmx:beforeRequest", (event) => { if (isBusy(event.detail)) event.preventDefault(); });
document.addEventListener("htmx:beforeSwap", (event) => { if (isBusy(event.detail)) event.detail.shouldSwap = false; });

// And what it brings takes nobody's place on the page.
let settle = null;
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  settle = detail.shouldSwap && detail.requestConfig.verb === "get" ? hold(detail.target) : null;
});
document.addEventListener("htmx:afterSwap", () => { settle?.(); settle = null; });
