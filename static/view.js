// How the charts are looked at: along steps, tokens or time; smoothed; logarithmic; which steps. One for all charts of the page.

const COLUMNS = { tokens: 1, seconds: 2 };
export const view = { along: "step", smoothing: 0, logarithmic: false, range: null, clock: null };

// Where `from` is looked up and `to` is read: a straight line between two rows of the clock, and beyond its end.
function interpolate(value, from, to) {
  const rows = view.clock;
  if (!rows || rows.length < 2) return value;
  let low = 0;
  let high = rows.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (rows[middle][from] <= value) low = middle; else high = middle;
  }
  const [a, b] = [rows[low], rows[high]];
  return a[to] + ((value - a[from]) / (b[from] - a[from] || 1)) * (b[to] - a[to]);
}

export const placeOf = (step) => (view.along === "step" ? step : interpolate(step, 0, COLUMNS[view.along]));
export const stepAt = (place) => Math.round(view.along === "step" ? place : interpolate(place, COLUMNS[view.along], 0));

const isShown = ([step]) => !view.range || (step >= view.range[0] && step <= view.range[1]);

// The points of a series that are in sight, where they are drawn: [place, value, step]. A logarithm has no place below zero.
export function shownPoints(points, isLog) {
  return points.filter(isShown).map(([step, value]) => [placeOf(step), isLog && !(value > 0) ? null : value, step]);
}

// A mean that forgets, as if it had begun in the middle: value by value, gaps stay gaps.
export function smooth(points) {
  let mean = 0;
  let weight = 0;
  return points.map(([place, value, step]) => {
    if (value === null) return [place, null, step];
    mean = view.smoothing * mean + (1 - view.smoothing) * value;
    weight = view.smoothing * weight + (1 - view.smoothing);
    return [place, mean / weight, step];
  });
}
