// Side-by-side generations: one group per evaluation, chosen by a slider. It follows the newest until someone looks back.

import { parse, place } from "./fragments.js";

const section = document.getElementById("samples");
const slider = document.getElementById("sample-step");
const output = document.getElementById("sample-at");
const groups = document.getElementById("sample-groups");
const steps = JSON.parse(section.dataset.steps);
let asked = null;

const groupOf = (step) => groups.querySelector(`.sample-group[data-step="${step}"]`);
const isLast = () => Number(slider.value) >= steps.length - 1;

function label() {
  const step = steps[slider.value];
  output.textContent = step ?? "";
  slider.setAttribute("aria-valuetext", `step ${step}`);
}

function reveal(step) {
  for (const group of groups.children) group.hidden = group.dataset.step !== String(step);
}

async function show() {
  const step = steps[slider.value];
  label();
  asked = step;
  if (!groupOf(step)) {
    const answer = await fetch(`/runs/${section.dataset.run}/samples?step=${step}`);
    if (!answer.ok) return;
    const group = parse(await answer.text()).querySelector(".sample-group");
    if (!groupOf(step)) groups.append(group);
  }
  if (asked === step) reveal(step);
}

slider.addEventListener("input", show);

// The group of a step whose samples are being drawn, made with its first.
function openGroup(step) {
  const follow = isLast();
  if (!steps.includes(step)) {
    steps.push(step);
    steps.sort((a, b) => a - b);
    slider.max = steps.length - 1;
    slider.hidden = steps.length < 2;
    document.getElementById("sample-slider").hidden = false;
    document.getElementById("no-samples").hidden = true;
    const group = document.createElement("div");
    group.className = "stack sample-group";
    group.dataset.step = step;
    group.hidden = true;
    groups.append(group);
  }
  if (follow) { slider.value = steps.length - 1; label(); reveal(steps.at(-1)); }
  return groupOf(step);
}

export const addSample = (html) => place(html, ({ dataset }) => openGroup(Number(dataset.step)));
