// How every chart looks: colours are tokens of the style sheet, then the font and the dress of axes, grid and tooltip.

const NUM_SERIES = 8; // as many as the style sheet has; further variants differ by their marks
const ROLES = [
  "text", "muted", "line", "surface", "sunken", "chosen", "rejected", "policy", "reference", "threshold", "accent",
  ...Array.from({ length: NUM_SERIES }, (_, at) => `series-${at}`),
];

// A token as a colour that a canvas takes: the browser resolves light-dark().
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

export let colours = readColours();
document.addEventListener("themechange", () => { colours = readColours(); }); // before any chart's own listener

export const seriesColour = (variant) => colours[`series-${variant % NUM_SERIES}`];
export const markOf = (variant, marks) => marks[Math.floor(variant / NUM_SERIES) % marks.length];

const FONT = { fontFamily: "ui-sans-serif, system-ui, sans-serif", fontSize: 11 };
export const fontIn = (color) => ({ ...FONT, color });
export const axisLabel = () => ({ ...fontIn(colours.muted), hideOverlap: true });
export const axisName = (name, nameGap = 22) => ({ name, nameLocation: "middle", nameGap, nameTextStyle: fontIn(colours.muted) });
export const endName = (name) => ({
  name, nameLocation: "end", nameGap: 8, nameTextStyle: { ...fontIn(colours.muted), align: "left" },
});
export const bareAxis = { axisLine: { show: false }, axisTick: { show: false } };
export const lineOfAxis = () => ({ axisLine: { lineStyle: { color: colours.line } }, axisTick: { show: false } });
export const gridLines = () => ({ splitLine: { lineStyle: { color: colours.line } } });
export const thresholdLine = () => ({ color: colours.threshold, type: "dashed", width: 1 });
export const gridOf = (top, { right = 14, bottom = 18 } = {}) => (
  { left: 4, right, top, bottom, outerBoundsMode: "same", outerBoundsContain: "axisLabel" });
export const tooltip = () => ({
  renderMode: "richText", confine: true, backgroundColor: colours.surface, borderColor: colours.line,
  textStyle: { ...FONT, fontSize: 12, color: colours.text },
});
