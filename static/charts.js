// The charts of a run page: a data store in, canvases out. Redrawn at most once a frame, and only what can be seen.

import { makeChart, paint } from "./canvas.js";
import { addMenu, listenToRange, useToolbar } from "./chart_tools.js";
import { count, duration, number, percent, size } from "./format.js";
import {
  axisLabel, axisName, bareAxis, colours, endName, fontIn, gridLines, gridOf, lineOfAxis, thresholdLine, tooltip,
} from "./palette.js";
import { shownPoints, smooth, stepAt, view } from "./view.js";

// Round numbers without the zeros that equal precision would add.
function tick(value) {
  const rounded = Number(value.toPrecision(3));
  if (Math.abs(rounded) >= 1000 && Math.abs(rounded) < 1e6) return count(rounded).replace("-", "−");
  return Math.abs(rounded) >= 1e-3 && Math.abs(rounded) < 1e6 ? String(rounded).replace("-", "−") : number(rounded, 2);
}

const LONG = 200; // points from which a line is drawn thin, so that its noise doesn't fill the plane
const step = (value) => count(Math.round(value));

const writer = (spec, plain) => ({ share: percent, bytes: size })[spec.unit] ?? plain;

// A chart with a smallest span doesn't blow up differences that mean nothing.
function padded(spec, side) {
  if (!spec.span) return undefined;
  const round = side < 0 ? Math.floor : Math.ceil;
  return ({ min, max }) => (max - min >= spec.span ? undefined : Math.max(0, 5 * round((min + max + side * spec.span) / 10)));
}

const ALONG = { step: ["step", step], tokens: ["tokens", tick], seconds: ["time trained", duration] };
const isLog = (spec) => view.logarithmic && spec.high === null;

function axes(spec) {
  const [name, formatter] = ALONG[view.along];
  return {
    xAxis: {
      type: "value", min: "dataMin", max: "dataMax", minInterval: 1, axisLabel: { ...axisLabel(), formatter },
      splitLine: { show: false }, ...axisName(name), ...lineOfAxis(),
    },
    yAxis: isLog(spec) ? {
      type: "log", axisLabel: { ...axisLabel(), formatter: writer(spec, tick) }, ...endName(spec.axis), ...bareAxis, ...gridLines(),
    } : {
      type: "value", scale: spec.low === null, min: spec.low ?? padded(spec, -1), max: spec.high ?? padded(spec, 1), splitNumber: 4,
      interval: spec.high === null ? undefined : (spec.high - spec.low) / 4, axisLabel: { ...axisLabel(), formatter: writer(spec, tick) },
      ...endName(spec.axis), ...bareAxis, ...gridLines(),
    },
  };
}

const tooltipAlong = (format) => (
  { ...tooltip(), trigger: "axis", valueFormatter: format, axisPointer: { lineStyle: { color: colours.muted } } });

function thresholds(spec) {
  if (!spec.thresholds.length) return undefined;
  return {
    silent: true, symbol: "none", animation: false, lineStyle: thresholdLine(),
    label: { show: false }, // its name stands in the legend, not on the lines
    data: spec.thresholds.map(({ at, label }) => ({ yAxis: at, name: label })),
  };
}

// What the reference lines mean, once each: "length-driven (±0.5)".
function thresholdNames(spec) {
  const places = new Map();
  for (const { at, label } of spec.thresholds) places.set(label, [...(places.get(label) ?? []), at]);
  const write = writer(spec, tick);
  return [...places].map(([label, [at, ...more]]) => `${label} (${more.length ? "±" : ""}${write(at)})`);
}

// How many rows a legend of these names takes.
function legendRows(names, width) {
  const long = names.reduce((sum, name) => sum + 32 + name.length * 6.2, 0);
  return Math.max(1, Math.ceil(long / Math.max(1, width)));
}

// A smoothed line keeps what it is a mean of, faint, behind it.
function linesOf(line, spec, points) {
  const drawn = lineOf(line, spec, points);
  if (!view.smoothing || drawn.showSymbol) return [drawn];
  const faint = { ...drawn, name: "", silent: true, tooltip: { show: false }, lineStyle: { ...drawn.lineStyle, width: 1, opacity: 0.25 } };
  return [{ ...drawn, data: smooth(points), lineStyle: { ...drawn.lineStyle, width: 1.8, opacity: 1 } }, faint];
}

function lineOf(line, spec, points) {
  const isLong = points.length > LONG;
  const few = spec.sparse || points.length < 3 || line.key.startsWith("eval/");
  const color = colours[line.tone];
  return {
    type: "line", name: line.label, data: points, animation: false, showSymbol: few, symbolSize: 6, sampling: few ? undefined : "lttb",
    connectNulls: false, itemStyle: { color }, emphasis: { disabled: true },
    lineStyle: { color, width: isLong ? 1 : 1.8, opacity: isLong ? 0.75 : 1, type: line.dashed ? "dashed" : "solid" },
  };
}

const legend = (data) => ({
  top: 0, left: 0, itemWidth: 14, itemHeight: 3, itemGap: 12, icon: "roundRect", textStyle: fontIn(colours.muted), data,
  selectedMode: false,
});

function lineOption(spec, store, _, width) {
  const series = spec.lines.flatMap((line) => linesOf(line, spec, shownPoints(store.get(line.key), isLog(spec))));
  if (series.length) series[0].markLine = thresholds(spec);
  if (spec.band && !isLog(spec)) series.unshift(...bandSeries(spec, store));
  const names = thresholdNames(spec);
  series.push(...names.map((name) => ({
    type: "line", name, data: [], itemStyle: { color: colours.threshold }, lineStyle: thresholdLine(), tooltip: { show: false },
  })));
  const labels = [...spec.lines.map((line) => line.label), ...names];
  const many = labels.length > 1;
  const legendHeight = many ? 12 + 18 * legendRows(labels, width) : 14;
  return {
    ...axes(spec), animation: false, series, tooltip: tooltipAlong(writer(spec, number)),
    grid: gridOf(legendHeight + (spec.axis ? 14 : 0)), legend: many ? legend(labels) : undefined,
  };
}

// An interval as two stacked areas: the lower one is not drawn.
function bandSeries(spec, store) {
  const [low, high] = spec.band.map((key) => shownPoints(store.get(key), false));
  const height = high.map(([place, value], at) => [place, value - (low[at]?.[1] ?? 0)]);
  const shared = {
    type: "line", stack: "band", symbol: "none", silent: true, animation: false, lineStyle: { opacity: 0 }, tooltip: { show: false },
  };
  return [
    { ...shared, name: "", data: low },
    { ...shared, name: "", data: height, areaStyle: { color: colours.policy, opacity: 0.16 } },
  ];
}

// Only the decades where weights are, and one bin beyond.
function usedBins(columns, edges) {
  let first = edges.length;
  let last = 0;
  for (const [, counts] of columns) {
    counts.forEach((one, bin) => { if (one) { first = Math.min(first, bin); last = Math.max(last, bin); } });
  }
  if (first > last) [first, last] = [12, 18];
  while (last - first < 7) { first = Math.max(0, first - 1); last = Math.min(edges.length, last + 1); }
  return [Math.max(0, first - 1), Math.min(edges.length, last + 1)];
}

// Odd bins begin at whole powers of ten; only they are labelled.
const wholePowers = (first) => (at) => (first + at) % 2 === 1;

function binLabel(bin, edges) {
  if (bin === 0) return `< ${edges[0].toExponential(0)}`;
  const low = edges[bin - 1];
  return low >= 0.01 && low < 1000 ? number(low, 2) : low.toExponential(0).replace("e+", "e").replace("-", "−");
}

function binRange(bin, edges) {
  if (bin === 0) return `w ${binLabel(0, edges)}`;
  return bin < edges.length ? `w from ${binLabel(bin, edges)} to ${binLabel(bin + 1, edges)}` : `w ≥ ${binLabel(bin, edges)}`;
}

// A column stands for the steps since the one before it.
const firstStep = (columns, at) => (at > 0 ? columns[at - 1][0] + 1 : Math.min(1, columns[0][0]));

function stepsOf(columns, at) {
  const [first, last] = [firstStep(columns, at), columns[at][0]];
  return first < last ? `steps ${count(first)} to ${count(last)}` : `step ${count(last)}`;
}

const binLabels = ([first, last], edges) => Array.from({ length: last - first + 1 }, (_, at) => binLabel(first + at, edges));

function histogramOption(spec, store, edges) {
  const [first, last] = usedBins(store.columns, edges);
  const counts = store.last?.[1] ?? [];
  const tell = ([{ dataIndex, value }]) => (
    `${binRange(first + dataIndex, edges)}\n${value === 1 ? "1 response" : `${count(value)} responses`}`);
  return {
    animation: false, grid: gridOf(14),
    xAxis: {
      type: "category", data: binLabels([first, last], edges), ...axisName("weight w"),
      axisLabel: { ...axisLabel(), interval: wholePowers(first) }, ...lineOfAxis(),
    },
    yAxis: { type: "value", minInterval: 1, axisLabel: { ...fontIn(colours.muted), formatter: count }, ...gridLines() },
    tooltip: { ...tooltipAlong(count), formatter: tell, axisPointer: { type: "shadow", shadowStyle: { opacity: 0.08 } } },
    series: [{
      type: "bar", name: "", data: Array.from({ length: last - first + 1 }, (_, at) => counts[first + at] ?? 0), barCategoryGap: "12%",
      itemStyle: { color: colours.policy, borderRadius: [2, 2, 0, 0] }, emphasis: { disabled: true },
    }],
  };
}

// [column, row, share of the column's responses] of every bin that holds any.
function cellsOf(columns, first, last) {
  return columns.flatMap(([, counts], column) => {
    const total = counts.reduce((sum, one) => sum + one, 0) || 1;
    return counts.slice(first, last + 1).flatMap((one, row) => (one ? [[column, row, one / total]] : []));
  });
}

function heatmapOption(spec, store, edges) {
  const { columns } = store;
  const [first, last] = usedBins(columns, edges);
  const cells = cellsOf(columns, first, last);
  const tell = ({ value: [column, row, share] }) => (
    `${stepsOf(columns, column)}\n${binRange(first + row, edges)}: ${percent(share)} of the responses`);
  return {
    animation: false, grid: gridOf(14),
    xAxis: {
      type: "category", data: columns.map((_, at) => count(firstStep(columns, at))), ...axisName("step"), axisLabel: axisLabel(),
      ...lineOfAxis(),
    },
    yAxis: {
      type: "category", data: binLabels([first, last], edges), axisLabel: { ...fontIn(colours.muted), interval: wholePowers(first) },
      ...bareAxis,
    },
    visualMap: {
      show: false, min: 0, max: cells.reduce((most, [, , share]) => Math.max(most, share), 0.2), dimension: 2,
      inRange: { color: [colours.sunken, colours.policy] },
    },
    tooltip: { ...tooltipAlong(percent), trigger: "item", formatter: tell },
    series: [{ type: "heatmap", data: cells, progressive: 0, emphasis: { disabled: true } }],
  };
}

const OPTIONS = { line: lineOption, histogram: histogramOption, heatmap: heatmapOption };

function numPoints(spec, store) {
  if (spec.kind !== "line") return store.columns.length;
  return Math.max(...spec.lines.map((line) => store.get(line.key).length));
}

function describe(spec, store) {
  const latest = spec.lines.map((line) => [line.label, store.get(line.key).at(-1)]).filter(([, point]) => point);
  const values = latest.map(([label, [, value]]) => `${label} ${writer(spec, number)(value)}`).join(", ");
  const step = latest.at(0)?.[1][0] ?? store.last?.[0];
  return step === undefined ? `${spec.title}: nothing yet` : `${spec.title}, at step ${step}${values ? `: ${values}` : ""}`;
}

// Draws every figure[data-chart]; `onStep` hears of a click on a step. Returns {redraw}.
export async function drawCharts({ source, specs, edges, store, onStep, clockAddress }) {
  const echarts = await import(source);
  const drawn = new Map();
  const dirty = new Set();
  const visible = new Set();
  let frame = 0;

  // Made when it is seen first: what a closed tab holds has no size yet.
  function chartOf(spec) {
    const entry = drawn.get(spec.id);
    if (entry.chart) return entry.chart;
    entry.chart = makeChart(echarts, entry.figure);
    listen(spec, entry.chart);
    addMenu(entry.figure, spec, entry.chart, store);
    return entry.chart;
  }

  function flush() {
    frame = 0;
    for (const spec of [...dirty]) {
      if (!visible.has(spec.id)) continue;
      dirty.delete(spec);
      const { figure } = drawn.get(spec.id);
      const chart = chartOf(spec);
      const makeOption = (width) => OPTIONS[spec.kind](spec, store, edges, width);
      paint(figure, chart, numPoints(spec, store), describe(spec, store), makeOption);
    }
  }
  const schedule = () => { frame ||= requestAnimationFrame(flush); };

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const { chart: id } = entry.target.dataset;
      if (entry.isIntersecting) visible.add(id); else visible.delete(id);
    }
    schedule();
  }, { rootMargin: "300px" });

  function listen(spec, chart) {
    chart.getZr().on("click", ({ offsetX, offsetY }) => {
      if (!chart.containPixel("grid", [offsetX, offsetY])) return;
      const [x] = chart.convertFromPixel({ gridIndex: 0 }, [offsetX, offsetY]);
      if (spec.kind === "line") onStep(stepAt(x));
      if (spec.kind === "heatmap") onStep(store.columns[Math.round(x)]?.[0]);
      if (spec.kind === "histogram") onStep(store.last?.[0]);
    });
    if (spec.kind !== "line") return;
    chart.getZr().on("mousemove", ({ offsetX }) => pointAll(spec, chart, offsetX));
    chart.getZr().on("globalout", () => pointAll(spec, chart, NaN));
    const plot = drawn.get(spec.id).figure.querySelector(".plot");
    listenToRange(chart, plot, (first, last) => zoom([stepAt(first), stepAt(last)]), () => zoom(null));
  }

  // One cursor for all charts in sight.
  function pointAll(from, chart, offsetX) {
    const place = Number.isFinite(offsetX) ? chart.convertFromPixel({ xAxisIndex: 0 }, offsetX) : NaN;
    for (const other of specs) {
      const known = drawn.get(other.id).chart;
      if (other === from || other.kind !== "line" || !known || !visible.has(other.id)) continue;
      const x = Number.isFinite(place) && numPoints(other, store) ? known.convertToPixel({ xAxisIndex: 0 }, place) : NaN;
      if (known.containPixel("grid", [x, known.getHeight() / 2])) known.dispatchAction({ type: "showTip", x, y: known.getHeight() / 2 });
      else known.dispatchAction({ type: "hideTip" });
    }
  }

  function mark(spec) {
    drawn.get(spec.id).figure.dataset.points = numPoints(spec, store);
    dirty.add(spec);
  }

  for (const spec of specs) {
    const figure = document.querySelector(`figure[data-chart="${spec.id}"]`);
    drawn.set(spec.id, { figure, chart: null });
    mark(spec);
    seen.observe(figure);
  }

  function redraw() {
    specs.forEach(mark);
    schedule();
  }
  const zoom = useToolbar(clockAddress, redraw);
  document.addEventListener("themechange", redraw);
  return { redraw };
}
