// Five quiet charts, drawn by plotly one at a time so that the picture never waits for them.
import { sizeColour } from "./colours.js";
import { inUnits, niceLength } from "./stage.js";

const MEASURED = ["particles", "median", "q10", "q90", "area_fraction", "agreement"];
const MOST_POINTS = 700;

// The curves of one run, kept by merging what changed.
export class Curves {
  constructor() { this.clear(); }
  clear() { this.version = 0; this.stride = 0; this.slots = []; }
  merge(delta) {
    if (delta.reset) this.slots = [];
    this.version = delta.version; this.stride = delta.stride;
    delta.frame.forEach((frame, i) => {
      const row = { frame };
      for (const key in delta) if (Array.isArray(delta[key])) row[key] = delta[key][i];
      this.slots[Math.floor(frame / delta.stride)] = row;
    });
  }
  rows() { // in order, at most MOST_POINTS, the newest among them
    const all = this.slots.filter(Boolean), every = Math.ceil(all.length / MOST_POINTS);
    return every <= 1 ? all : all.filter((_, i) => (all.length - 1 - i) % every === 0);
  }
  get start() { return this.slots.find(Boolean)?.time_s ?? null; }
}

export function elapsedUnit(seconds) { return seconds < 240 ? [1, "s"] : seconds < 14400 ? [60, "min"] : [3600, "h"]; }

// Edges of equal bins: a nice width near Freedman and Diaconis, that changes only when it must.
export function bins(sizes, before) {
  const sorted = Float64Array.from(sizes).sort(), n = sorted.length, q = (p) => sorted[Math.floor(p * (n - 1))];
  const top = Math.max(q(1), 1e-9), ideal = Math.max(2 * (q(0.75) - q(0.25)) / Math.cbrt(n), top / 40) || top / 10;
  const keep = before && before.width > ideal * 0.45 && before.width < ideal * 2.2 && top <= before.end && top > before.end * 0.45;
  const width = keep ? before.width : niceLength(ideal * 1.4), end = keep ? before.end : Math.ceil(top * 1.15 / width) * width;
  const counts = new Array(Math.max(1, Math.round(end / width))).fill(0);
  for (const size of sorted) counts[Math.min(counts.length - 1, Math.floor(size / width))]++;
  return { width, end, counts };
}

export class Charts {
  constructor() { this.queue = new Map(); this.busy = false; this.tick = 0; }

  theme() {
    const css = getComputedStyle(document.documentElement), v = (name) => css.getPropertyValue(`--${name}`).trim();
    this.c = Object.fromEntries(["ink", "soft", "grid", "accent", "second", "band", "card", "rule"].map((n) => [n, v(n)]));
    this.font = { family: v("font"), size: parseFloat(css.fontSize) * 0.86, color: this.c.soft };
  }

  axis(more) {
    return { gridcolor: this.c.grid, zeroline: false, linecolor: this.c.rule, showline: false, tickfont: this.font, ticks: "", fixedrange: true,
      automargin: true, hoverformat: ".4~g", ...more, title: more?.title ? { text: more.title, font: this.font, standoff: 4 } : undefined };
  }
  layout(x, y, more = {}) {
    return { margin: { l: 8, r: this.font.size * 0.9, t: this.font.size * 0.7, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: this.font,
      showlegend: false, hovermode: "x unified", hoverlabel: { bgcolor: this.c.card, bordercolor: this.c.rule, font: { ...this.font, color: this.c.ink } },
      xaxis: this.axis(x), yaxis: this.axis(y), ...more };
  }
  line(x, y, color, more = {}) {
    return { x, y, type: "scatter", mode: "lines", connectgaps: true, ...more, line: { color, width: Math.max(1.6, this.font.size / 8), ...more.line }, hovertemplate: more.hovertemplate ?? "%{y}<extra></extra>" };
  }

  // Draw soon: each chart on its own, when the page has nothing better to do.
  plan(id, data, layout) {
    if (typeof Plotly === "undefined") return;
    this.queue.set(id, [data, layout]);
    if (!this.busy) { this.busy = true; this.next(); }
  }
  next() {
    const work = () => {
      const [id] = this.queue.keys();
      if (id === undefined) { this.busy = false; return; }
      const [data, layout] = this.queue.get(id);
      this.queue.delete(id);
      Plotly.react(id, data, layout, { displayModeBar: false, responsive: true, doubleClick: false, showTips: false });
      this.next();
    };
    if (window.requestIdleCallback) requestIdleCallback(work, { timeout: 250 }); else setTimeout(work, 16);
  }

  // The three curves over time. nm: nm per px or null.
  overTime(curves, nm) {
    this.theme();
    const rows = curves.rows(), t0 = curves.start ?? 0, span = (rows.at(-1)?.time_s ?? 0) - t0;
    const byTime = span > 0, [per, unit] = elapsedUnit(span);
    const at = (r) => (byTime ? (r.time_s - t0) / per : r.frame);
    const x = rows.map(at), seen = rows.filter((r) => r.particles !== null), xs = seen.map(at);
    const [, lengthUnit, k] = this.lengths(seen.map((r) => r.q90 ?? r.median), nm);
    const end = x.at(-1) || 1, time = { title: byTime ? unit : "frame", range: [0, end], nticks: 6, hoverformat: byTime ? ".1f" : "d" };
    const count = seen.map((r) => r.particles);
    this.plan("chart-count", [this.line(xs, count, this.c.accent)], this.layout(time, { rangemode: "tozero", nticks: 5, range: [0, Math.max(4, ...count) * 1.12], tickformat: "d" }));
    const of = (key) => seen.map((r) => (r[key] === null ? null : r[key] * k));
    this.plan("chart-diameter", [
      this.line(xs, of("q10"), this.c.band, { line: { width: 0 }, hoverinfo: "skip", hovertemplate: null }),
      this.line(xs, of("q90"), this.c.band, { line: { width: 0 }, fill: "tonexty", fillcolor: this.c.band, hoverinfo: "skip", hovertemplate: null }),
      this.line(xs, of("median"), this.c.accent, { hovertemplate: `%{y} ${lengthUnit}<extra></extra>` }),
    ], this.layout(time, { title: lengthUnit, rangemode: "tozero", nticks: 5 }));
    this.drift(rows, x, time, nm);
  }

  drift(rows, x, time, nm) {
    const [, unit, k] = this.lengths(rows.flatMap((r) => [Math.abs(r.shift_y), Math.abs(r.shift_x)]), nm), move = (key) => rows.map((r) => (r[key] === null ? null : r[key] * k));
    const confidence = { domain: [0, 0.17], range: [0, 1.02], tickvals: [0, 1], showgrid: false };
    this.plan("chart-drift", [
      this.line(x, move("shift_y"), this.c.accent, { hovertemplate: `y %{y} ${unit}<extra></extra>` }),
      this.line(x, move("shift_x"), this.c.second, { hovertemplate: `x %{y} ${unit}<extra></extra>` }),
      this.line(x, rows.map((r) => r.confidence), this.c.soft, { yaxis: "y2", fill: "tozeroy", fillcolor: this.c.band, line: { width: 1 }, hovertemplate: "confidence %{y}<extra></extra>" }),
    ], this.layout({ ...time, anchor: "y2" }, { title: unit, domain: [0.27, 1], nticks: 5 }, { yaxis2: this.axis(confidence) }));
  }

  // [1, unit, factor from px] that suits these lengths in px.
  lengths(values, nm) {
    if (!nm) return [1, "px", 1];
    const top = values.reduce((a, b) => Math.max(a, b ?? 0), 0) * nm, [n, unit] = inUnits(top || 1);
    return [1, unit, nm * (top ? n / top : 1)];
  }

  // range: the sizes at the two ends of the colours; null = one colour (outlines tell the tracks)
  sizes(diameters, unit, range) {
    this.theme();
    if (!diameters.length) { this.plan("chart-sizes", [], this.layout({ title: unit, range: [0, 1] }, { range: [0, 4] })); return; }
    const b = this.bins = bins(diameters, this.bins), x = b.counts.map((_, i) => (i + 0.5) * b.width);
    const top = Math.max(4, ...b.counts), ceiling = this.ceiling = this.ceiling >= top && this.ceiling < top * 1.8 ? this.ceiling : top * 1.2;
    this.plan("chart-sizes", [{ type: "bar", x, y: b.counts, width: b.width * 0.9, marker: { color: range ? x.map((v) => sizeColour(v, range)) : this.c.accent, line: { width: 0 } },
      customdata: x.map((v) => [+(v - b.width / 2).toPrecision(3), +(v + b.width / 2).toPrecision(3)]), hovertemplate: `%{customdata[0]}–%{customdata[1]} ${unit}: %{y}<extra></extra>` }],
    this.layout({ title: unit, range: [0, b.end] }, { range: [0, ceiling], nticks: 5, tickformat: "d" }, { hovermode: "closest", bargap: 0 }));
  }

  // One particle's diameter over time. past: {frame, time_s, diameter}; t0: the run's first time; here: the shown frame.
  particle(past, unit, colour, t0, here) {
    this.theme();
    const n = past.frame.length, byTime = n > 1 && past.time_s[n - 1] > past.time_s[0] && t0 !== null;
    const [per, name] = byTime ? elapsedUnit(past.time_s[n - 1] - t0) : [1, "frame"], x = byTime ? past.time_s.map((t) => (t - t0) / per) : past.frame;
    const [, lengthUnit, k] = unit === "nm" ? this.lengths(past.diameter, 1) : [1, unit, 1], y = past.diameter.map((d) => (d === null ? null : d * k));
    const box = document.getElementById("chart-particle"); // its height changes with the events below it
    const at = past.frame.indexOf(here), top = Math.max(...y), low = Math.min(...y), room = Math.max((top - low) * 0.15, top * 0.05);
    const dot = { x: at < 0 ? [] : [x[at]], y: at < 0 ? [] : [y[at]], type: "scatter", mode: "markers", hoverinfo: "skip", marker: { color: colour, size: this.font.size * 0.75, line: { color: this.c.ink, width: 1.4 } } };
    this.plan("chart-particle", [this.line(x, y, this.c.accent, { mode: n < 40 ? "lines+markers" : "lines", marker: { size: this.font.size * 0.3 }, hovertemplate: `%{y} ${lengthUnit}<extra></extra>` }), dot],
      this.layout({ ticksuffix: byTime ? ` ${name}` : "", nticks: 5, tickformat: byTime ? "" : "d", hoverformat: byTime ? ".2f" : "d" }, { title: `⌀ ${lengthUnit}`, nticks: 4, range: n ? [Math.max(0, low - room), top + room] : [0, 1] }, { width: box.clientWidth, height: box.clientHeight }));
  }

  clear() { this.bins = null; this.ceiling = 0; }
}
