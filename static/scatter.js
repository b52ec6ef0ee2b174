// The responses of one batch: weight against length and against reward, read from the rows of its table.

import { makeChart, paint } from "./canvas.js";
import { number } from "./format.js";
import { axisLabel, axisName, bareAxis, colours, endName, gridLines, gridOf, lineOfAxis, tooltip } from "./palette.js";

const NAMES = { tokens: "tokens", reward: "reward r" };

const tell = (what) => ({ name, value: [x, weight] }) => `${name}\n${NAMES[what]} ${number(x)}, w ${number(weight)}`;

function optionOf(what, rows) {
  const label = { ...axisLabel(), formatter: (value) => number(value, 2) };
  const data = rows.map(({ dataset }) => ({
    value: [Number(dataset[what]), Number(dataset.weight)], itemStyle: { color: colours[dataset.side], opacity: 0.8 },
    symbol: dataset.side === "rejected" ? "triangle" : "circle", name: dataset.side,
  }));
  return {
    animation: false, grid: gridOf(26),
    xAxis: { type: "value", scale: true, axisLabel: label, splitLine: { show: false }, ...axisName(NAMES[what]), ...lineOfAxis() },
    yAxis: {
      type: "log", axisLabel: label, ...endName("weight w"), ...bareAxis, axisLine: { show: false, onZero: false }, ...gridLines(),
    },
    tooltip: { ...tooltip(), trigger: "item", formatter: tell(what) },
    series: [{ type: "scatter", symbolSize: 8, data }],
  };
}

export async function drawScatter(source, table) {
  const echarts = await import(source);
  const all = [...table.querySelectorAll("tr[data-weight]")].filter(({ dataset }) => Number(dataset.weight) > 0);
  for (const figure of table.querySelectorAll("[data-scatter]")) {
    const what = figure.dataset.scatter;
    const rows = all.filter(({ dataset }) => dataset[what] !== "");
    const chart = makeChart(echarts, figure);
    const words = `${figure.querySelector("strong").textContent}: ${rows.length} responses, in the table below`;
    const draw = () => paint(figure, chart, rows.length, words, () => optionOf(what, rows));
    draw();
    document.addEventListener("themechange", () => { if (figure.isConnected) draw(); });
  }
}
