// The chart of a sweep: reward gained against KL, a line per variant over its evaluations, the Pareto front dashed.
// Its data stands in #poll, which is fetched again while runs go on.

import { number, signed } from "./format.js";

const ROLES = ["text", "muted", "line", "surface", "threshold", ...Array.from({ length: 8 }, (_, at) => `series-${at}`)];
const SYMBOLS = ["circle", "rect", "triangle", "diamond"];
const FONT = { fontFamily: "ui-sans-serif, system-ui, sans-serif", fontSize: 11 };
const figure = document.getElementById("frontier");
const plot = figure.querySelector(".plot");
const logarithmic = document.getElementById("log-kl");
const KL = 0;
let colours = readColours();
let shown = "";

// A token of the style sheet as a colour that a canvas takes: the browser resolves light-dark().
function readColours() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const found = Object.fromEntries(ROLES.map((role) => {
    probe.style.color = `var(--${role})`;
    return [role, getComputedStyle(probe).color];
  }));
  probe.remove();
  return found;
}

// [KL, gain, step, variant, on the front] per variant; a logarithm has no place for the reference itself.
function linesOf({ labels, points }) {
  const lines = labels.map(() => []);
  for (const [variant, step, kl, gain, front] of points) {
    if (!logarithmic.checked || kl > 0) lines[variant].push([kl, gain, step, variant, front]);
  }
  return lines;
}

function seriesOf(label, variant, points) {
  const colour = colours[`series-${variant % 8}`];
  return {
    type: "line", name: label, animation: false, symbol: SYMBOLS[Math.floor(variant / 8) % 4], showAllSymbol: true, cursor: "pointer",
    itemStyle: { color: colour }, lineStyle: { color: colour, width: 1.5, opacity: 0.55 }, emphasis: { focus: "series", scale: 1.4 }, blur: { itemStyle: { opacity: 0.25 } },
    data: points.map((value) => ({ value, symbolSize: value[4] ? 10 : 6, itemStyle: { color: colour, borderColor: value[4] ? colours.text : colour, borderWidth: value[4] ? 1.5 : 0 } })),
  };
}

function frontOf(lines) {
  const front = lines.flat().filter((point) => point[4]).sort((a, b) => a[KL] - b[KL]);
  return {
    type: "line", name: "front", data: front.map(([kl, gain]) => [kl, gain]), animation: false, silent: true, symbol: "none", z: 1,
    lineStyle: { color: colours.muted, type: "dashed", width: 1.5 }, tooltip: { show: false },
  };
}

function budgetOf(budget) {
  if (budget === null || (logarithmic.checked && budget <= 0)) return undefined;
  return {
    silent: true, symbol: "none", animation: false, lineStyle: { color: colours.threshold, type: "dashed", width: 1 },
    label: { ...FONT, color: colours.threshold, formatter: `KL ${number(budget)}`, position: "insideEndTop" }, data: [{ xAxis: budget }],
  };
}

function axes() {
  const label = { ...FONT, color: colours.muted, hideOverlap: true, formatter: (value) => number(value, 2) };
  const name = { nameTextStyle: { ...FONT, color: colours.muted } };
  return {
    xAxis: {
      type: logarithmic.checked ? "log" : "value", scale: true, name: "KL from the reference (nats)", nameLocation: "middle", nameGap: 24, ...name, axisLabel: label,
      axisLine: { onZero: false, lineStyle: { color: colours.line } }, axisTick: { show: false }, splitLine: { show: false },
    },
    yAxis: {
      type: "value", scale: true, name: "reward gained", nameLocation: "end", nameGap: 8, ...name, nameTextStyle: { ...name.nameTextStyle, align: "left" }, axisLabel: label,
      axisLine: { show: false, onZero: false }, axisTick: { show: false }, splitLine: { lineStyle: { color: colours.line } },
    },
  };
}

function optionOf(data) {
  const lines = linesOf(data);
  const series = lines.map((points, variant) => seriesOf(data.labels[variant], variant, points)).filter(({ data: points }) => points.length);
  const front = frontOf(lines);
  front.markLine = budgetOf(data.budget);
  return {
    animation: false, ...axes(), series: [front, ...series],
    grid: { left: 4, right: 18, top: 48, bottom: 20, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
    legend: {
      type: "scroll", top: 0, left: 0, right: 0, itemWidth: 18, itemHeight: 8, itemGap: 12, data: series.map(({ name }) => name), textStyle: { ...FONT, color: colours.muted },
      pageIconColor: colours.muted, pageIconInactiveColor: colours.line, pageTextStyle: { ...FONT, color: colours.muted }, inactiveColor: colours.line,
    },
    tooltip: {
      trigger: "item", renderMode: "richText", confine: true, backgroundColor: colours.surface, borderColor: colours.line, textStyle: { ...FONT, fontSize: 12, color: colours.text },
      formatter: ({ seriesName, value: [kl, gain, step, , isFront] }) => `${seriesName}\nstep ${step}: reward ${signed(gain)} at KL ${number(kl)}${isFront ? "\non the front" : ""}`,
    },
  };
}

function describe({ labels, points }) {
  if (!points.length) return "Reward against distance: nothing yet";
  return `Reward against distance, ${points.length} evaluations of ${labels.length} variants. The table “On the front” holds the best of them.`;
}

const canvas = document.createElement("div");
canvas.className = "canvas";
plot.prepend(canvas);
plot.setAttribute("role", "img");
const echarts = await import(figure.dataset.echarts);
const chart = echarts.init(canvas, null, { renderer: "canvas" });

function draw() {
  const text = document.getElementById("poll").dataset.frontier;
  const data = JSON.parse(text);
  const state = JSON.stringify([text, logarithmic.checked, colours]);
  if (state === shown) return;
  shown = state;
  figure.dataset.points = data.points.length;
  plot.querySelector(".plot-empty").hidden = data.points.length > 0;
  plot.setAttribute("aria-label", describe(data));
  if (data.points.length) chart.setOption(optionOf(data), { notMerge: true });
  else chart.clear();
  figure.dataset.drawn = data.points.length;
}

chart.on("click", ({ value }) => {
  const run = JSON.parse(document.getElementById("poll").dataset.frontier).runs[value?.[3]];
  if (run) location.assign(`/runs/${run}`);
});
new ResizeObserver(() => chart.resize()).observe(plot);
logarithmic.addEventListener("change", draw);
document.addEventListener("themechange", () => { colours = readColours(); draw(); });
document.addEventListener("htmx:afterSettle", draw);
draw();
