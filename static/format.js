// Numbers as app/web/rendering/format.py writes them, so that a live value looks like the first paint's.

const THIN = "\u202f";
const NOTHING = "–";

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(digits - 1).replace("e+", "e").replaceAll("-", "−");
  const decimals = Math.min(6, Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
  const [whole, rest] = value.toFixed(decimals).replace("-", "−").split(".");
  return whole.replace(/\B(?=(\d{3})+(?!\d))/g, THIN) + (rest ? `.${rest}` : "");
}

export const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));

export const percent = (value) =>
  (Number.isFinite(value) ? `${(value * 100).toFixed(0).replace("-", "−")}${THIN}%` : NOTHING);

export const count = (value) => String(value).replace(/\B(?=(\d{3})+(?!\d))/g, THIN);

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  const whole = Math.max(0, Math.round(seconds));
  const [days, hours, minutes, rest] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}

export function size(bytes) {
  let amount = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (amount < 1000) return unit === "B" || amount >= 100 ? `${amount.toFixed(0)} ${unit}` : `${amount.toFixed(1)} ${unit}`;
    amount /= 1000;
  }
  return `${amount.toFixed(1)} TB`;
}

export const WRITERS = { number, signed, percent };
