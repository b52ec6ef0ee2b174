// The charts of a run page: a data store in, canvases out. Redrawn at most once a frame, and only what can be seen.

import { count, number, percent, size } from "./format.js";

const ROLES = ["text", "muted", "line", "surface", "sunken", "chosen", "rejected", "policy", "reference", "threshold", "accent"];

// A token of the style sheet as a colour that a canvas takes: the browser resolves light-dark().
function readColours() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const colours = Object.fromEntries(ROLES.map((role) => {
    probe.style.color = `var(--${role})`;
    return [role, getComputedStyle(probe).color];
  }));
  probe.remove();
  return colours;
}

const font = { fontFamily: "ui-sans-serif, system-ui, sans-serif", fontSize: 11 };

// Round numbers without the zeros that equal precision would add.
function tick(value) {
  const rounded = Number(value.toPrecision(3));
  if (Math.abs(rounded) >= 1000 && Math.abs(rounded) < 1e6) return count(rounded).replace("-", "−");
  return Math.abs(rounded) >= 1e-3 && Math.abs(rounded) < 1e6 ? String(rounded).replace("-", "−") : number(rounded, 2);
}

const LONG = 200; // points from which a line is drawn thin, so that its noise doesn't fill the plane
const axisName = (colours, name) => ({ name, nameLocation: "middle", nameGap: 22, nameTextStyle: { ...font, color: colours.muted } });
const step = (value) => count(Math.round(value));

const writer = (spec, plain) => ({ share: percent, bytes: size })[spec.unit] ?? plain;

// A chart with a smallest span doesn't blow up differences that mean nothing.
function padded(spec, side) {
  if (!spec.span) return undefined;
  const round = side < 0 ? Math.floor : Math.ceil;
  return ({ min, max }) => (max - min >= spec.span ? undefined : Math.max(0, 5 * round((min + max + side * spec.span) / 10)));
}

function axes(colours, spec) {
  const label = { ...font, color: colours.muted, hideOverlap: true };
  return {
    xAxis: {
      type: "value", min: "dataMin", max: "dataMax", minInterval: 1, axisLabel: { ...label, formatter: step }, splitLine: { show: false }, ...axisName(colours, "step"),
      axisLine: { lineStyle: { color: colours.line } }, axisTick: { show: false },
    },
    yAxis: {
      type: "value", scale: spec.low === null, min: spec.low ?? padded(spec, -1), max: spec.high ?? padded(spec, 1), splitNumber: 4,
      name: spec.axis, nameLocation: "end", nameGap: 8, nameTextStyle: { ...font, color: colours.muted, align: "left" },
      interval: spec.high === null ? undefined : (spec.high - spec.low) / 4, axisLine: { show: false }, axisTick: { show: false },
      axisLabel: { ...label, formatter: writer(spec, tick) },
      splitLine: { lineStyle: { color: colours.line } },
    },
  };
}

function tooltip(colours, format) {
  return {
    trigger: "axis", renderMode: "richText", confine: true, backgroundColor: colours.surface, borderColor: colours.line,
    textStyle: { ...font, fontSize: 12, color: colours.text }, valueFormatter: format, axisPointer: { lineStyle: { color: colours.muted } },
  };
}

function thresholds(colours, spec) {
  if (!spec.thresholds.length) return undefined;
  return {
    silent: true, symbol: "none", animation: false,
    lineStyle: { color: colours.threshold, type: "dashed", width: 1 },
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
const legendRows = (names, width) => Math.max(1, Math.ceil(names.reduce((sum, name) => sum + 32 + name.length * 6.2, 0) / Math.max(1, width)));

function lineOption(spec, store, colours, _, width) {
  const format = writer(spec, number);
  const series = spec.lines.map((line, index) => {
    const points = store.get(line.key);
    const isLong = points.length > LONG;
    const few = spec.sparse || points.length < 3 || line.key.startsWith("eval/");
    return {
      type: "line", name: line.label, data: points, animation: false, showSymbol: few, symbolSize: 6, sampling: few ? undefined : "lttb",
      connectNulls: false, itemStyle: { color: colours[line.tone] }, emphasis: { disabled: true },
      lineStyle: { color: colours[line.tone], width: isLong ? 1 : 1.8, opacity: isLong ? 0.75 : 1, type: line.dashed ? "dashed" : "solid" },
      markLine: index === 0 ? thresholds(colours, spec) : undefined,
    };
  });
  if (spec.band) series.unshift(...bandSeries(spec, store, colours));
  const names = thresholdNames(spec);
  const dashed = { color: colours.threshold, type: "dashed", width: 1 };
  series.push(...names.map((name) => ({ type: "line", name, data: [], itemStyle: { color: colours.threshold }, lineStyle: dashed, tooltip: { show: false } })));
  const labels = [...spec.lines.map((line) => line.label), ...names];
  const many = labels.length > 1;
  const legendHeight = many ? 12 + 18 * legendRows(labels, width) : 14;
  return {
    ...axes(colours, spec), animation: false, series, tooltip: tooltip(colours, format),
    grid: { left: 4, right: 14, top: legendHeight + (spec.axis ? 14 : 0), bottom: 18, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
    legend: many
      ? { top: 0, left: 0, itemWidth: 14, itemHeight: 3, itemGap: 12, icon: "roundRect", textStyle: { ...font, color: colours.muted },
          data: labels, selectedMode: false }
      : undefined,
  };
}

// An interval as two stacked areas: the lower one is not drawn.
function bandSeries(spec, store, colours) {
  const [low, high] = spec.band.map((key) => store.get(key));
  const shared = { type: "line", stack: "band", symbol: "none", silent: true, animation: false, lineStyle: { opacity: 0 }, tooltip: { show: false } };
  return [
    { ...shared, name: "", data: low },
    { ...shared, name: "", data: high.map(([step, value], at) => [step, value - (low[at]?.[1] ?? 0)]), areaStyle: { color: colours.policy, opacity: 0.16 } },
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

function histogramOption(spec, store, colours, edges) {
  const [first, last] = usedBins(store.columns, edges);
  const bins = Array.from({ length: last - first + 1 }, (_, at) => first + at);
  const counts = store.last?.[1] ?? [];
  const label = { ...font, color: colours.muted };
  return {
    animation: false,
    grid: { left: 4, right: 14, top: 14, bottom: 18, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
    xAxis: { type: "category", data: bins.map((bin) => binLabel(bin, edges)), ...axisName(colours, "weight w"), axisLabel: { ...label, interval: wholePowers(first), hideOverlap: true }, axisLine: { lineStyle: { color: colours.line } }, axisTick: { show: false } },
    yAxis: { type: "value", minInterval: 1, axisLabel: { ...label, formatter: count }, splitLine: { lineStyle: { color: colours.line } } },
    tooltip: { ...tooltip(colours, count), formatter: ([{ dataIndex, value }]) => `${binRange(first + dataIndex, edges)}\n${value === 1 ? "1 response" : `${count(value)} responses`}`, axisPointer: { type: "shadow", shadowStyle: { opacity: 0.08 } } },
    series: [{ type: "bar", name: "", data: bins.map((bin) => counts[bin] ?? 0), barCategoryGap: "12%", itemStyle: { color: colours.policy, borderRadius: [2, 2, 0, 0] }, emphasis: { disabled: true } }],
  };
}

function heatmapOption(spec, store, colours, edges) {
  const [first, last] = usedBins(store.columns, edges);
  const label = { ...font, color: colours.muted };
  const cells = [];
  store.columns.forEach(([, counts], column) => {
    const total = counts.reduce((sum, one) => sum + one, 0) || 1;
    for (let bin = first; bin <= last; bin += 1) if (counts[bin]) cells.push([column, bin - first, counts[bin] / total]);
  });
  const bins = Array.from({ length: last - first + 1 }, (_, at) => binLabel(first + at, edges));
  return {
    animation: false,
    grid: { left: 4, right: 14, top: 14, bottom: 18, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
    xAxis: { type: "category", data: store.columns.map((_, at) => count(firstStep(store.columns, at))), ...axisName(colours, "step"), axisLabel: { ...label, hideOverlap: true }, axisLine: { lineStyle: { color: colours.line } }, axisTick: { show: false } },
    yAxis: { type: "category", data: bins, axisLabel: { ...label, interval: wholePowers(first) }, axisLine: { show: false }, axisTick: { show: false } },
    visualMap: { show: false, min: 0, max: cells.reduce((most, [, , share]) => Math.max(most, share), 0.2), dimension: 2, inRange: { color: [colours.sunken, colours.policy] } },
    tooltip: { ...tooltip(colours, percent), trigger: "item", formatter: ({ value }) => `${stepsOf(store.columns, value[0])}\n${binRange(first + value[1], edges)}: ${percent(value[2])} of the responses` },
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
export async function drawCharts({ source, specs, edges, store, onStep }) {
  const echarts = await import(source);
  let colours = readColours();
  const drawn = new Map();
  const dirty = new Set();
  const visible = new Set();
  let frame = 0;

  function draw(spec) {
    const { figure, plot, chart } = drawn.get(spec.id);
    const points = numPoints(spec, store);
    figure.dataset.points = points;
    plot.querySelector(".plot-empty").hidden = points > 0;
    plot.setAttribute("aria-label", describe(spec, store));
    if (points) chart.setOption(OPTIONS[spec.kind](spec, store, colours, edges, plot.clientWidth), { notMerge: true, lazyUpdate: false });
    else chart.clear();
    figure.dataset.drawn = points;
  }

  function flush() {
    frame = 0;
    for (const spec of [...dirty]) {
      if (!visible.has(spec.id)) continue;
      dirty.delete(spec);
      draw(spec);
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
  const resized = new ResizeObserver((entries) => {
    for (const entry of entries) echarts.getInstanceByDom(entry.target.firstElementChild)?.resize();
  });

  for (const spec of specs) {
    const figure = document.querySelector(`figure[data-chart="${spec.id}"]`);
    const plot = figure.querySelector(".plot");
    const canvas = document.createElement("div");
    canvas.className = "canvas";
    plot.prepend(canvas);
    plot.setAttribute("role", "img");
    const chart = echarts.init(canvas, null, { renderer: "canvas" });
    chart.getZr().on("click", ({ offsetX, offsetY }) => {
      if (!chart.containPixel("grid", [offsetX, offsetY])) return;
      const [x] = chart.convertFromPixel({ gridIndex: 0 }, [offsetX, offsetY]);
      if (spec.kind === "line") onStep(Math.round(x));
      if (spec.kind === "heatmap") onStep(store.columns[Math.round(x)]?.[0]);
      if (spec.kind === "histogram") onStep(store.last?.[0]);
    });
    drawn.set(spec.id, { figure, plot, chart });
    figure.dataset.points = numPoints(spec, store);
    dirty.add(spec);
    seen.observe(figure);
    resized.observe(plot);
  }

  function redraw() {
    for (const spec of specs) {
      drawn.get(spec.id).figure.dataset.points = numPoints(spec, store);
      dirty.add(spec);
    }
    schedule();
  }
  document.addEventListener("themechange", () => { colours = readColours(); redraw(); });
  return { redraw };
}
