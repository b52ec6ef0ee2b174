// What the charts draw: series of [step, value] and weight histograms, each short enough to draw however long a run is.
// Every change may be repeated: a step that comes again replaces itself, so a stream may overlap the first paint.

export const MAX_POINTS = 2000;
export const MAX_COLUMNS = 240;

// Keep the smallest and the largest of each four neighbours, in their order: half the points, all the peaks.
export function thin(points) {
  const kept = [];
  for (let start = 0; start < points.length; start += 4) {
    const group = points.slice(start, start + 4);
    const known = group.filter(([, value]) => value !== null);
    if (!known.length) { kept.push(group[0]); continue; }
    const low = known.reduce((a, b) => (b[1] < a[1] ? b : a));
    const high = known.reduce((a, b) => (b[1] > a[1] ? b : a));
    kept.push(...(low === high ? [low] : low[0] < high[0] ? [low, high] : [high, low]));
  }
  return kept;
}

// Add neighbouring histograms up: half the columns, no response lost.
export function merge(columns) {
  const merged = [];
  for (let at = 0; at < columns.length; at += 2) {
    const [step, counts] = columns[at];
    const next = columns[at + 1];
    merged.push(next ? [next[0], counts.map((one, bin) => one + next[1][bin])] : [step, counts]);
  }
  return merged;
}

function dropFrom(list, step) {
  while (list.length && list[list.length - 1][0] >= step) list.pop();
}

export function makeStore({ series, histograms }) {
  const store = { series: new Map(Object.entries(series)), columns: histograms, last: histograms.at(-1) ?? null };

  store.get = (key) => store.series.get(key) ?? [];

  store.add = (step, metrics, histogram) => {
    for (const [key, value] of Object.entries(metrics)) {
      let points = store.series.get(key);
      if (!points) continue; // not drawn
      dropFrom(points, step);
      points.push([step, value]);
      if (points.length > MAX_POINTS) points = thin(points);
      store.series.set(key, points);
    }
    if (!histogram?.length) return;
    dropFrom(store.columns, step);
    store.columns.push([step, histogram]);
    store.last = [step, histogram];
    if (store.columns.length > MAX_COLUMNS) store.columns = merge(store.columns);
  };

  // A resumed attempt makes the steps after `step` again.
  store.cut = (step) => {
    for (const points of store.series.values()) dropFrom(points, step + 1);
    dropFrom(store.columns, step + 1);
    store.last = store.columns.at(-1) ?? null;
  };
  return store;
}
