// What colours mean: which particle it is, how large it is, or how it grows. All hold for every kind of colour vision.

// Small particles are blue, large ones amber, bright on grey.
const RAMP = [[84, 182, 242], [128, 214, 226], [222, 232, 164], [255, 206, 84], [255, 160, 30]];
// Shrinking is orange, growing is blue, between them nearly white.
const GROWTH = [[235, 120, 10], [250, 180, 95], [240, 240, 240], [120, 195, 255], [30, 135, 245]];
function along(ramp, share) {
  const t = Math.max(0, Math.min(0.9999, share)) * (ramp.length - 1);
  const a = ramp[Math.floor(t)], b = ramp[Math.floor(t) + 1], f = t - Math.floor(t);
  return `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * f)).join(",")})`;
}
export function sizeColour(size, [low, high]) { return along(RAMP, (size - low) / Math.max(1e-9, high - low)); }
export function growthColour(rate, most) { return rate === null || rate === undefined ? NO_TRACK : along(GROWTH, 0.5 + rate / Math.max(1e-12, most) / 2); }

// Twelve bright colours, chosen so that any two differ for normal, red-blind, green-blind and blue-blind eyes (distance in
// OKLab at least 0.095 in each of Machado's simulations, 2009).
const HUES = ["#69d6fc", "#4790c0", "#a99afe", "#ac5ffe", "#fba8c0", "#bd6e7d", "#ee3829", "#e68c03", "#f6eb89", "#b8d504", "#4bc17c", "#93fed8"];
export const NO_TRACK = "#cdd3d6";
// The colour is made of the number alone: the same in every frame, page and theme. Neighbouring numbers lie far apart.
export function trackColour(track) { return track < 0 ? NO_TRACK : HUES[Math.floor((track * 0.6180339887 % 1) * HUES.length)]; }
