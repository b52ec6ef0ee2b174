// The run page, live: it starts from what the server painted and goes on with the stream, event by event.

import { announce } from "./announce.js";
import { WRITERS, count, duration, percent } from "./format.js";
import { parse, place, swap } from "./fragments.js";
import { makeStore } from "./series.js";
import { keepTabs } from "./tabs.js";

const MAX_LOG_LINES = 500;
const holder = document.getElementById("run-data");
const data = JSON.parse(holder.textContent);
if (!data.series) Object.assign(data, await (await fetch(`/runs/${data.run_id}/series`)).json());
const store = makeStore(data);
const page = document.documentElement;
const byId = (id) => document.getElementById(id);
const samples = byId("samples") ? await import("./samples.js") : null;
let charts = null;

// ----- numbers -----

function fill(metrics) {
  for (const [key, value] of Object.entries(metrics)) {
    const slot = document.querySelector(`[data-metric="${key}"]`);
    if (!slot) continue;
    slot.textContent = WRITERS[slot.dataset.format](value);
    const note = slot.parentElement.querySelector(".note");
    if (value !== null) note.textContent = note.dataset.note;
  }
}

// The card of stages and progress, and why what is empty is empty: as a reload would show them.
let moved = 0;
async function refresh() {
  const answer = await fetch(`/runs/${data.run_id}/standing`);
  if (!answer.ok) return;
  const card = parse(await answer.text()).querySelector("#standing");
  const old = byId("standing");
  if (Number(card.dataset.seq) < Number(old.dataset.seq)) return;
  // Steps that came while this was on its way are newer than its bar.
  if (Number(card.dataset.seq) < moved) card.querySelector("#progress").replaceWith(byId("progress"));
  swap(old, card);
  tellReasons(JSON.parse(card.dataset.reasons));
}

// What leads the page, once for all events that come together.
let asking = 0;
function refreshResult() {
  clearTimeout(asking);
  asking = setTimeout(async () => {
    const answer = await fetch(`/runs/${data.run_id}/result`);
    if (!answer.ok) return;
    const fresh = parse(await answer.text());
    if (Number(fresh.querySelector("#result").dataset.seq) < Number(byId("result").dataset.seq)) return;
    for (const id of ["result", "leading-samples"]) swap(byId(id), fresh.getElementById(id));
  }, 150);
}

function tellReasons(reasons) {
  for (const [name, text] of Object.entries(reasons)) {
    const empty = document.querySelector(`figure[data-chart="${name}"] .plot-empty`);
    if (empty) empty.textContent = text;
    const slot = document.querySelector(`[data-metric="${name}"]`);
    if (slot?.textContent === "–") slot.parentElement.querySelector(".note").textContent = text;
  }
}

function moveBar(share, text, secondsLeft) {
  moved = last;
  byId("progress-bar").value = share;
  byId("progress-text").textContent = text;
  byId("time-left").textContent = Number.isFinite(secondsLeft) ? `${duration(secondsLeft)} left` : "";
}

function onStep(event) {
  store.add(event.step, event.metrics, event.histogram);
  fill(event.metrics);
  moveBar(event.step / event.num_steps, `Step ${count(event.step)} of ${count(event.num_steps)}`, event.seconds_left);
  if (byId("batch-step")) byId("batch-step").max = event.step;
  byId("standing").dataset.steps = event.num_steps;
  charts?.redraw();
}

function onEvaluation(event) {
  store.add(event.step, event.metrics, null);
  fill(event.metrics);
  refreshResult();
  charts?.redraw();
}

function onProgress(event) {
  const name = event.stage[0].toUpperCase() + event.stage.slice(1);
  const share = event.total ? event.done / event.total : 0;
  const countsSteps = ["train", "evaluate"].includes(event.stage) && Number(byId("standing").dataset.steps) > 0;
  if (!countsSteps) moveBar(share, `${name} ${percent(share)}`, NaN);
}

// ----- fragments -----

function onState(html) {
  const [status] = onLog(html);
  const { state } = status.dataset;
  announce(`The run is ${state}`);
  document.title = document.title.replace(/^(?:\[\w+\] )?/, state === "running" ? "" : `[${state}] `);
  refresh();
  refreshResult();
}

function onLog(html) {
  const list = byId("log-list");
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 40;
  const lines = place(html, () => list);
  while (list.children.length > MAX_LOG_LINES) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
  return lines;
}

function onResume(html) {
  store.cut(Number(onLog(html)[0].dataset.cutAfter));
  charts?.redraw();
}

function onFinding(html) {
  const [finding] = place(html, () => byId("finding-list"));
  byId("findings").hidden = false;
  refreshResult();
  announce(`Finding: ${finding.querySelector("h3").textContent}`);
}

function onArtifact(html) {
  place(html, () => byId("artifact-list"));
  byId("artifact-table").hidden = false;
  byId("no-artifacts").hidden = true;
}

const onFinal = (html) => {
  const [section] = place(html, () => null);
  refreshResult();
  announce(`The run has its ${section.querySelector("h2").textContent.toLowerCase()}`);
};

function onSample(html) {
  samples?.addSample(html);
  refreshResult();
}

const NUMBERS = { step: onStep, evaluation: onEvaluation, progress: onProgress };
const FRAGMENTS = {
  state: onState, stage: refresh, log: onLog, checkpoint: onLog, outcome: onLog, resume: onResume, memory: onLog,
  scoring: (html) => { onLog(html); refresh(); }, kept: (html) => { onLog(html); refresh(); },
  finding: onFinding, artifact: onArtifact, sample: onSample, final: onFinal,
};

// ----- the stream -----

const SILENT_MS = 8000; // two of the server's beats
let last = data.after;
let heardAt = performance.now();
let clock;

function hear() {
  heardAt = performance.now();
  byId("silence").hidden = true;
}

function tellSilence() {
  const since = performance.now() - heardAt;
  if (since < SILENT_MS) return;
  if (byId("silence").hidden) announce("Nothing is heard from the server");
  byId("silent-for").textContent = duration(since / 1000);
  byId("silence").hidden = false;
}

function watchSilence() {
  clearInterval(clock);
  clock = setInterval(tellSilence, 1000);
}

function listen() {
  watchSilence();
  const stream = new EventSource(`/runs/${data.run_id}/live?after=${last}`);
  const take = (kind, act, read) => stream.addEventListener(kind, (message) => {
    hear();
    last = Number(message.lastEventId);
    page.dataset.seq = last;
    act(read(message.data));
  });
  for (const [kind, act] of Object.entries(NUMBERS)) take(kind, act, JSON.parse);
  for (const [kind, act] of Object.entries(FRAGMENTS)) take(kind, act, String);
  stream.addEventListener("open", () => { hear(); page.dataset.stream = "open"; });
  stream.addEventListener("beat", hear);
  stream.addEventListener("end", ({ data: told }) => {
    tellEnd(JSON.parse(told).detail);
    hear();
    clearInterval(clock);
    stream.close();
    page.dataset.stream = "ended";
  });
  stream.addEventListener("error", () => {
    page.dataset.stream = "lost";
    // A refusal (not a lost connection) closes the stream for good: try again ourselves, from where we stand.
    if (stream.readyState === EventSource.CLOSED) setTimeout(comeBack, 3000);
  });
  addEventListener("pagehide", () => stream.close(), { once: true });
}

// Why a stream has ended before its run.
function tellEnd(detail) {
  if (!detail) return;
  const told = document.createElement("div");
  told.className = "notice warn";
  told.setAttribute("role", "alert");
  told.append(detail);
  document.getElementById("notice").replaceChildren(told);
}

// A page that comes back from the browser's memory has no stream any more.
addEventListener("pageshow", ({ persisted }) => { if (persisted && page.dataset.stream !== "ended") { hear(); listen(); } });

// Whose sign-in has ended is led to the login page, and from there back.
async function comeBack() {
  const answer = await fetch("/api/v1/account").catch(() => null);
  if (answer?.status === 401) location.reload();
  else listen();
}

// ----- one batch -----

function showBatch(step) {
  if (!step || step < 1) return;
  if (!byId("batch-form")) return;
  openTab("weights");
  byId("batch-step").value = step;
  byId("batch-form").requestSubmit();
  byId("batch").scrollIntoView({ block: "nearest" });
}

document.addEventListener("htmx:afterSwap", async ({ target }) => {
  if (target.id !== "batch-rows" || !target.querySelector("[data-scatter]")) return;
  const { drawScatter } = await import("./scatter.js");
  await drawScatter(holder.dataset.echarts, target);
});

// ----- tabs -----

const scrollLog = () => { byId("log-list").scrollTop = byId("log-list").scrollHeight; };
const openTab = keepTabs(byId("run-tabs"), (id) => {
  if (byId("chart-tools")) byId("chart-tools").hidden = !["weights", "learning"].includes(id);
  if (id === "log") scrollLog();
});

scrollLog();
if (data.state !== "succeeded" && data.state !== "failed" && data.state !== "cancelled") listen();
else page.dataset.stream = "ended";

// The charts come after the first paint: their library is the largest thing on the page.
if (data.charts.length) requestAnimationFrame(() => setTimeout(async () => {
  const { drawCharts } = await import("./charts.js");
  charts = await drawCharts({
    source: holder.dataset.echarts, specs: data.charts, edges: data.edges, store, onStep: showBatch,
    clockAddress: `/runs/${data.run_id}/clock`,
  });
  page.dataset.charts = "drawn";
}));
