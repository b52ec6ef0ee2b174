// What can be done with the charts: the toolbar of all of them, and a menu on each for full screen, a picture and its numbers.

import { colours } from "./palette.js";
import { view } from "./view.js";

const byId = (id) => document.getElementById(id);

// Listens to the toolbar; `clockAddress` gives tokens and seconds by step, and `redraw` hears of every change.
export function useToolbar(clockAddress, redraw) {
  const [along, smoothing, log, from, to] = ["along", "smoothing", "log", "from", "to"].map((id) => byId(`chart-${id}`));

  along.addEventListener("change", async () => {
    if (along.value !== "step" && !view.clock) view.clock = await (await fetch(clockAddress)).json();
    view.along = view.clock?.length > 1 ? along.value : "step";
    redraw();
  });
  smoothing.addEventListener("input", () => { view.smoothing = Number(smoothing.value); redraw(); });
  log.addEventListener("change", () => { view.logarithmic = log.checked; redraw(); });

  function zoom(range) {
    view.range = range;
    [from.value, to.value] = range ?? ["", ""];
    redraw();
  }
  const typed = () => {
    const range = [from.valueAsNumber || 0, Number.isFinite(to.valueAsNumber) ? to.valueAsNumber : Infinity];
    view.range = range[0] < range[1] && (from.value || to.value) ? range : null;
    redraw();
  };
  from.addEventListener("change", typed);
  to.addEventListener("change", typed);
  byId("chart-all").addEventListener("click", () => zoom(null));
  return zoom;
}

function save(address, name) {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
}

function toCsv(spec, store) {
  const lines = spec.lines.filter(({ key }) => store.get(key).length);
  const rows = new Map();
  lines.forEach(({ key }, column) => {
    for (const [step, value] of store.get(key)) {
      if (!rows.has(step)) rows.set(step, Array(lines.length).fill(""));
      rows.get(step)[column] = value ?? "";
    }
  });
  const sorted = [...rows].sort(([a], [b]) => a - b).map(([step, values]) => [step, ...values].join(","));
  return [["step", ...lines.map(({ key }) => key)].join(","), ...sorted, ""].join("\n");
}

function saveNumbers(spec, store) {
  const address = URL.createObjectURL(new Blob([toCsv(spec, store)], { type: "text/csv" }));
  save(address, `${spec.id}.csv`);
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

const savePicture = (spec, chart) => (
  save(chart.getDataURL({ type: "png", pixelRatio: 2, backgroundColor: colours.surface }), `${spec.id}.png`));

// The menu in a figure's corner.
export function addMenu(figure, spec, chart, store) {
  const menu = document.createElement("details");
  menu.className = "menu chart-menu";
  const summary = document.createElement("summary");
  summary.textContent = "⋯";
  summary.ariaLabel = `${spec.title}: full screen, picture, numbers`;
  const list = document.createElement("div");
  list.className = "menu-items";
  const acts = { "Full screen": () => figure.requestFullscreen(), "Picture (PNG)": () => savePicture(spec, chart) };
  if (spec.kind === "line") acts["Numbers (CSV)"] = () => saveNumbers(spec, store);
  for (const [words, act] of Object.entries(acts)) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button quiet small";
    button.textContent = words;
    button.addEventListener("click", () => { menu.open = false; act(); });
    list.append(button);
  }
  menu.append(summary, list);
  figure.append(menu);
}

// A range is chosen by drawing over a chart; `take(first, last)` hears of it in places, `reset` of a double click.
export function listenToRange(chart, plot, take, reset) {
  const band = document.createElement("div");
  band.className = "zoom-band";
  band.hidden = true;
  plot.append(band);
  let start = null;
  const renderer = chart.getZr();
  renderer.on("mousedown", ({ offsetX, offsetY }) => { start = chart.containPixel("grid", [offsetX, offsetY]) ? offsetX : null; });
  renderer.on("mousemove", ({ offsetX }) => {
    if (start === null || Math.abs(offsetX - start) < 6) return;
    band.hidden = false;
    band.style.left = `${Math.min(start, offsetX)}px`;
    band.style.width = `${Math.abs(offsetX - start)}px`;
  });
  const end = ({ offsetX }) => {
    if (!band.hidden && Number.isFinite(offsetX)) {
      const [first, last] = [start, offsetX].map((x) => chart.convertFromPixel({ xAxisIndex: 0 }, x)).sort((a, b) => a - b);
      take(first, last);
    }
    band.hidden = true;
    start = null;
  };
  renderer.on("mouseup", end);
  renderer.on("globalout", end);
  renderer.on("dblclick", reset);
}
