// What the server sends as HTML, on its way into the page.

import { hold } from "./focus.js";

export function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

// Puts a newer painting of a part in place of it.
export function swap(old, fresh) {
  const settle = hold(old);
  old.replaceWith(fresh);
  settle();
}

// Puts each element of a fragment where its like is on the page already, by its id, else at the end of `listOf(element)`.
export function place(html, listOf) {
  const placed = [...parse(html).children];
  for (const element of placed) {
    const old = element.id && document.getElementById(element.id);
    if (old) swap(old, element);
    else listOf(element)?.append(element);
    globalThis.htmx?.process(element);
  }
  return placed;
}
