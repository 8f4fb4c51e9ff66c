// What colours mean: the size of a particle, or which one it is.

// Small particles are blue, large ones amber: distinct for every kind of colour vision, bright on grey.
const RAMP = [[84, 182, 242], [128, 214, 226], [222, 232, 164], [255, 206, 84], [255, 160, 30]];
export function sizeColour(size, [low, high]) {
  const t = Math.max(0, Math.min(0.9999, (size - low) / Math.max(1e-9, high - low))) * (RAMP.length - 1);
  const a = RAMP[Math.floor(t)], b = RAMP[Math.floor(t) + 1], f = t - Math.floor(t);
  return `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * f)).join(",")})`;
}

// Twenty hues around the OKLCH circle, lightness 0.72 and 0.80 in turn: all bright enough for grey micrographs.
const HUES = ["#ff7076", "#fda388", "#f4820b", "#fcab15", "#c5a008", "#c5c605", "#82b90b", "#5cdd6d", "#16c18b", "#0edbc5",
  "#04bbc3", "#11d3fa", "#06b1f7", "#90c1fe", "#869dfd", "#bcb2fe", "#c67eff", "#fb8efe", "#f36cc1", "#ff9cb7"];
export const NO_TRACK = "#cdd3d6";
// The colour is made of the number alone: the same in every frame, page and theme. Neighbouring numbers lie far apart.
export function trackColour(track) { return track < 0 ? NO_TRACK : HUES[Math.floor((track * 0.6180339887 % 1) * HUES.length)]; }
