// Side-by-side generations: one group per evaluation, chosen by a slider. It follows the newest until someone looks back.
// A group stands beside the reference, or beside the policy's own answers of the evaluation before.

import { parse, place } from "./fragments.js";

const byId = (id) => document.getElementById(id);
const section = byId("samples");
const slider = byId("sample-step");
const output = byId("sample-at");
const groups = byId("sample-groups");
const [sort, beside, losses, marks] = ["sort", "beside", "losses", "marks"].map((id) => byId(`sample-${id}`));
const steps = JSON.parse(section.dataset.steps);
let asked = null;

// The step before the first is none: it stands beside the reference.
const besideOf = (step) => (beside.value === "before" && steps.indexOf(step) > 0 ? "before" : "reference");
const groupOf = (step, side = "reference") => groups.querySelector(`.sample-group[data-step="${step}"][data-beside="${side}"]`);
const isLast = () => Number(slider.value) >= steps.length - 1;

function label() {
  const step = steps[slider.value];
  output.textContent = step ?? "";
  slider.setAttribute("aria-valuetext", `step ${step}`);
}

// Sorts and filters the samples of a group; those without rewards have no gain, and no loss.
function arrange(group) {
  const key = sort.value.replace("-", "");
  const sign = sort.value.startsWith("-") ? -1 : 1;
  const value = ({ dataset }) => (dataset[key] === "" ? Infinity : sign * Number(dataset[key]));
  const samples = [...group.querySelectorAll("article")];
  const isLoss = ({ dataset }) => dataset.gain !== "" && Number(dataset.gain) < 0;
  for (const sample of samples) sample.hidden = losses.checked && !isLoss(sample);
  const sorted = [...samples].sort((a, b) => value(a) - value(b) || a.dataset.index - b.dataset.index);
  if (sorted.some((sample, at) => sample !== samples[at])) group.append(...sorted);
  const num = samples.filter(({ hidden }) => !hidden).length;
  byId("sample-count").textContent = losses.checked ? `${num} of ${samples.length}` : "";
}

function reveal(step) {
  for (const group of groups.children) group.hidden = group !== groupOf(step, besideOf(step));
  const shown = groupOf(step, besideOf(step));
  if (shown) arrange(shown);
}

async function show() {
  const step = steps[slider.value];
  const side = besideOf(step);
  label();
  asked = step;
  if (!groupOf(step, side)) {
    const before = side === "before" ? `&before=${steps[steps.indexOf(step) - 1]}` : "";
    const answer = await fetch(`/runs/${section.dataset.run}/samples?step=${step}${before}`);
    if (!answer.ok) return;
    const group = parse(await answer.text()).querySelector(".sample-group");
    if (!groupOf(step, side)) groups.append(group);
  }
  if (asked === step) reveal(step);
}

slider.addEventListener("input", show);
beside.addEventListener("change", show);
for (const control of [sort, losses]) control.addEventListener("change", () => reveal(steps[slider.value]));
marks.addEventListener("change", () => groups.classList.toggle("marked", marks.checked));

// The group of a step whose samples are being drawn, made with its first.
function openGroup(step) {
  const follow = isLast();
  if (!steps.includes(step)) {
    steps.push(step);
    steps.sort((a, b) => a - b);
    slider.max = steps.length - 1;
    slider.hidden = steps.length < 2;
    byId("sample-slider").hidden = false;
    byId("no-samples").hidden = true;
    const group = document.createElement("div");
    group.className = "stack sample-group";
    group.dataset.step = step;
    group.dataset.beside = "reference";
    group.hidden = true;
    groups.append(group);
  }
  if (follow) {
    slider.value = steps.length - 1;
    label();
    if (groupOf(steps.at(-1), besideOf(steps.at(-1)))) reveal(steps.at(-1));
  }
  return groupOf(step);
}

// A new sample takes its place; the newest evaluation beside the one before it is asked for once more when more of it is there.
export function addSample(html) {
  const [sample] = place(html, ({ dataset }) => openGroup(Number(dataset.step)));
  const step = Number(sample.dataset.step);
  groupOf(step, "before")?.remove();
  if (step === steps[slider.value]) show();
}
