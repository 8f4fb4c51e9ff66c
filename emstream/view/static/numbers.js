// Numbers as people read them: three digits, a unit that suits, an uncertainty beside.

export function niceLength(x) { // the largest of 1, 2, 5 × 10ⁿ that is not above x
  const p = 10 ** Math.floor(Math.log10(x));
  return [5, 2, 1].find((m) => m * p <= x * 1.0000001) * p;
}
export function inUnits(nm) { // [number, unit] of a length
  if (nm >= 1e6) return [nm / 1e6, "mm"];
  if (nm >= 1000) return [nm / 1000, "µm"];
  return [nm, "nm"];
}
export const $ = (id) => document.getElementById(id);
export const digits = (x, n = 3) => (x === 0 ? "0" : Math.abs(x) >= 10 ** (n - 1) ? Math.round(x).toLocaleString("en", { useGrouping: true }).replaceAll(",", " ") : String(+x.toPrecision(n))).replace("-", "−");

// Write into an element only what changed: [value, unit].
export function put(id, value, unit = "") {
  const text = value === null || value === undefined || Number.isNaN(value) ? "–" : typeof value === "number" ? digits(value) : value;
  const element = $(id), wanted = text === "–" ? text : text + unit;
  if (element.dataset.shown === wanted) return;
  element.dataset.shown = wanted;
  element.textContent = text;
  if (unit && text !== "–") { const u = document.createElement("span"); u.className = "u"; u.textContent = unit; element.append(u); }
}
export function putLength(id, value, unit, per = "") {
  if (value === null || value === undefined) { put(id, null); return; }
  const [n, u] = unit === "nm" ? inUnits(value) : [value, unit];
  put(id, +n.toPrecision(3), u + per);
}
// 12.3 ± 0.4: the value keeps the digits that its error leaves, and the error two at most.
export function withError(value, error) {
  if (value === null || value === undefined) return "–";
  if (!error) return digits(value);
  const places = Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(error))));
  const whole = 10 ** Math.max(0, Math.floor(Math.log10(error)) - 1), round = (x) => (places ? x.toFixed(places).replace(/^-(?=[0.]*$)/, "") : digits(Math.round(x / whole) * whole, 12)).replace("-", "−");
  return `${round(value)} ± ${round(error)}`;
}
// [value, error, unit] of a rate per second in the time unit in which it is near 1.
export function rate(value, error, unit) {
  const size = Math.max(Math.abs(value ?? 0), error ?? 0), length = unit.split("/")[0];
  const [k, per] = size >= 0.1 || size === 0 ? [1, "s"] : size * 60 >= 0.1 ? [60, "min"] : [3600, "h"];
  return [value === null ? null : value * k, error === null ? null : error * k, `${length}/${per}`];
}
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds)), two = (n) => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}
export function roughly(s) { return s < 100 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`; }
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"]; let i = 0;
  while (n >= 1000 && i < 5) { n /= 1000; i++; }
  return [+n.toPrecision(3), units[i]];
}
// A setting of this browser; null when there is none or storage is off.
export function remembered(name, value) {
  try { if (value === undefined) return localStorage.getItem(`emstream-${name}`); localStorage.setItem(`emstream-${name}`, value); } catch { /* storage is off */ }
  return null;
}
