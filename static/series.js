// What the charts draw: series of [step, value] and weight histograms, each short enough to draw however long a run is.
// Every change may be repeated: a step that comes again replaces itself, so a stream may overlap the first paint.

export const MAX_POINTS = 2000;
export const MAX_COLUMNS = 240;

function dropFrom(list, step) {
  while (list.length && list[list.length - 1][0] >= step) list.pop();
}

// The smallest and the largest of some points, in their order: no peak is lost.
function extremes(points) {
  const known = points.filter(([, value]) => value !== null);
  if (points.length < 3 || !known.length) return points.slice(0, 2);
  const low = known.reduce((a, b) => (b[1] < a[1] ? b : a));
  const high = known.reduce((a, b) => (b[1] > a[1] ? b : a));
  if (low === high) return [low];
  return low[0] < high[0] ? [low, high] : [high, low];
}

// A series in which each range of `width` steps that is over holds at most two points; the width doubles as it grows.
function makeSeries(points) {
  let width = 1;
  let open = points.length; // where the range that isn't over begins
  const range = ([step]) => Math.floor(step / width);

  function thin() {
    width *= 2;
    const groups = new Map();
    for (const point of points) groups.set(range(point), [...(groups.get(range(point)) ?? []), point]);
    points = [...groups.values()].flatMap(extremes);
    open = points.length;
  }

  return {
    get points() { return points; },
    add(step, value) {
      this.cut(step - 1);
      const point = [step, value];
      if (open < points.length && range(points[open]) !== range(point)) {
        points.push(...extremes(points.splice(open)));
        open = points.length;
      }
      points.push(point);
      while (points.length > MAX_POINTS) thin();
    },
    cut(step) {
      dropFrom(points, step + 1);
      open = Math.min(open, points.length);
    },
  };
}

// Columns [last step, counts], each the sum over `width` steps; the width doubles as they grow.
function makeColumns(columns) {
  const first = columns[0]?.[0] ?? 1;
  let width = Math.max(1, Math.round(((columns.at(-1)?.[0] ?? 1) - first) / Math.max(1, columns.length - 1)));
  const range = (step) => Math.floor((step - 1) / width);

  function put(list, [step, counts]) {
    const last = list.at(-1);
    if (last && range(last[0]) === range(step)) list[list.length - 1] = [step, counts.map((one, bin) => one + last[1][bin])];
    else list.push([step, counts]);
  }

  return {
    get all() { return columns; },
    add(step, counts) {
      dropFrom(columns, step);
      put(columns, [step, counts]);
      while (columns.length > MAX_COLUMNS) {
        width *= 2;
        const wider = [];
        for (const column of columns) put(wider, column);
        columns = wider;
      }
    },
    cut(step) { dropFrom(columns, step + 1); },
  };
}

export function makeStore({ series, histograms }) {
  const drawn = new Map(Object.entries(series).map(([key, points]) => [key, makeSeries(points)]));
  const columns = makeColumns(histograms);
  let last = histograms.at(-1) ?? null;

  return {
    get: (key) => drawn.get(key)?.points ?? [],
    get columns() { return columns.all; },
    get last() { return last; },
    add(step, metrics, histogram) {
      for (const [key, value] of Object.entries(metrics)) drawn.get(key)?.add(step, value);
      if (!histogram?.length) return;
      columns.add(step, histogram);
      last = [step, histogram];
    },
    // A resumed attempt makes the steps after `step` again.
    cut(step) {
      for (const one of drawn.values()) one.cut(step);
      columns.cut(step);
      last = columns.all.at(-1) ?? null;
    },
  };
}
