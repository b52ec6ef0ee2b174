// A figure of the page and the chart that is drawn into it.

export function makeChart(echarts, figure) {
  const plot = figure.querySelector(".plot");
  const canvas = document.createElement("div");
  canvas.className = "canvas";
  plot.prepend(canvas);
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", figure.querySelector("figcaption strong").textContent); // in words once it is drawn
  const chart = echarts.init(canvas, null, { renderer: "canvas" });
  new ResizeObserver(() => chart.resize()).observe(plot);
  return chart;
}

// Draws what `makeOption(width)` says, or the reason why there is nothing; `words` are for those who can't see it.
export function paint(figure, chart, numPoints, words, makeOption) {
  const plot = figure.querySelector(".plot");
  figure.dataset.points = numPoints;
  plot.querySelector(".plot-empty").hidden = numPoints > 0;
  plot.setAttribute("aria-label", words);
  if (numPoints) chart.setOption(makeOption(plot.clientWidth), { notMerge: true, lazyUpdate: false });
  else chart.clear();
  figure.dataset.drawn = numPoints;
}
