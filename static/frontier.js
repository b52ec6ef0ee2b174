// The chart of a sweep: reward gained against KL, a line per variant over its evaluations, the Pareto front dashed.
// Its data stands in #poll, which is fetched again while runs go on.

import { makeChart, paint } from "./canvas.js";
import { number, signed } from "./format.js";
import {
  axisLabel, axisName, bareAxis, colours, endName, fontIn, gridLines, gridOf, lineOfAxis, markOf, seriesColour, thresholdLine, tooltip,
} from "./palette.js";

const MARKS = ["circle", "rect", "triangle", "diamond"];
const figure = document.getElementById("frontier");
const logarithmic = document.getElementById("log-kl");
const KL = 0;
let shown = "";

// [KL, gain, step, variant, on the front] per variant; a logarithm has no place for the reference itself.
function linesOf({ labels, points }) {
  const lines = labels.map(() => []);
  for (const [variant, step, kl, gain, front] of points) {
    if (!logarithmic.checked || kl > 0) lines[variant].push([kl, gain, step, variant, front]);
  }
  return lines;
}

function seriesOf(label, variant, points) {
  const color = seriesColour(variant);
  const onFront = { symbolSize: 10, itemStyle: { color, borderColor: colours.text, borderWidth: 1.5 } };
  const behind = { symbolSize: 6, itemStyle: { color, borderColor: color, borderWidth: 0 } };
  return {
    type: "line", name: label, animation: false, symbol: markOf(variant, MARKS), showAllSymbol: true, cursor: "pointer",
    itemStyle: { color }, lineStyle: { color, width: 1.5, opacity: 0.55 },
    emphasis: { focus: "series", scale: 1.4 }, blur: { itemStyle: { opacity: 0.25 } },
    data: points.map((value) => ({ value, ...(value[4] ? onFront : behind) })),
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
    silent: true, symbol: "none", animation: false, lineStyle: thresholdLine(), data: [{ xAxis: budget }],
    label: { ...fontIn(colours.threshold), formatter: `KL ${number(budget)}`, position: "insideEndTop" },
  };
}

function axes() {
  const label = { ...axisLabel(), formatter: (value) => number(value, 2) };
  const { axisLine, axisTick } = lineOfAxis();
  return {
    xAxis: {
      type: logarithmic.checked ? "log" : "value", scale: true, ...axisName("KL from the reference (nats)", 24), axisLabel: label,
      axisLine: { ...axisLine, onZero: false }, axisTick, splitLine: { show: false },
    },
    yAxis: { type: "value", scale: true, ...endName("reward gained"), axisLabel: label, ...bareAxis, ...gridLines() },
  };
}

const legend = (data) => ({
  type: "scroll", top: 0, left: 0, right: 0, itemWidth: 18, itemHeight: 14, itemGap: 12, data, textStyle: fontIn(colours.muted),
  pageIconColor: colours.muted, pageIconInactiveColor: colours.line, pageTextStyle: fontIn(colours.muted), inactiveColor: colours.line,
});

function tell({ seriesName, value: [kl, gain, step, , isFront] }) {
  return `${seriesName}\nstep ${step}: reward ${signed(gain)} at KL ${number(kl)}${isFront ? "\non the front" : ""}`;
}

function optionOf(data) {
  const lines = linesOf(data);
  const series = lines.flatMap((points, variant) => (points.length ? [seriesOf(data.labels[variant], variant, points)] : []));
  const front = frontOf(lines);
  front.markLine = budgetOf(data.budget);
  return {
    animation: false, ...axes(), series: [front, ...series], grid: gridOf(48, { right: 18, bottom: 20 }),
    legend: legend(series.map(({ name }) => name)), tooltip: { ...tooltip(), trigger: "item", formatter: tell },
  };
}

function describe({ labels, points }) {
  if (!points.length) return "Reward against distance: nothing yet";
  const held = "The table “On the front” holds the best of them.";
  return `Reward against distance, ${points.length} evaluations of ${labels.length} variants. ${held}`;
}

const chart = makeChart(await import(figure.dataset.echarts), figure);

function draw() {
  const text = document.getElementById("poll").dataset.frontier;
  const data = JSON.parse(text);
  const state = JSON.stringify([text, logarithmic.checked, colours]);
  if (state === shown) return;
  shown = state;
  paint(figure, chart, data.points.length, describe(data), () => optionOf(data));
}

chart.on("click", ({ value }) => {
  const run = JSON.parse(document.getElementById("poll").dataset.frontier).runs[value?.[3]];
  if (run) location.assign(`/runs/${run}`);
});
logarithmic.addEventListener("change", draw);
document.addEventListener("themechange", draw);
document.addEventListener("htmx:afterSettle", draw);
draw();
