// Quiet charts, drawn by plotly one at a time so that the picture never waits for them.
import { sizeColour } from "./colours.js";
import { inUnits, niceLength, rate } from "./numbers.js";

const STATUS = [[16, "new anchor", "x"], [32, "stage jump", "diamond-open"], [8, "shift not believed", "line-ns-open"]]; // bits, words, mark
const EVENTS = { nucleation: "circle-open", dissolution: "circle-x-open", coalescence: "triangle-up", split: "triangle-down-open", detachment: "square-open" };
const TIMED = ["chart-count", "chart-growth", "chart-diameter", "chart-drift", "chart-evolution"];
const MOST_POINTS = 700, LATEST_MS = 60, ANCHOR = 16, MOST_ANCHORS = 40; // with more the lines would hide the curves

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

function ladder(low, high) { // 1, 2, 5 × 10ⁿ between
  const out = [];
  for (let p = 10 ** Math.floor(Math.log10(low)); p <= high; p *= 10) for (const m of [1, 2, 5]) if (m * p >= low && m * p <= high) out.push(+(m * p).toPrecision(1));
  return out;
}

export class Charts {
  constructor() { this.queue = new Map(); this.timer = null; }

  theme() {
    const css = getComputedStyle(document.documentElement), v = (name) => css.getPropertyValue(`--${name}`).trim();
    this.c = Object.fromEntries(["ink", "soft", "grid", "accent", "second", "band", "card", "rule", "peak"].map((n) => [n, v(n)]));
    this.font = { family: v("font"), size: parseFloat(css.fontSize) * 0.86, color: this.c.soft };
  }

  axis(more) {
    return { gridcolor: this.c.grid, zeroline: false, linecolor: this.c.rule, showline: false, tickfont: this.font, ticks: "", fixedrange: true,
      automargin: true, hoverformat: ".4~g", ...more, title: more?.title ? { text: more.title, font: this.font, standoff: 4 } : undefined };
  }
  layout(x, y, more = {}) {
    return { margin: { l: 8, r: this.font.size * 0.9, t: this.font.size * 0.7, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: this.font,
      showlegend: false, hovermode: "x unified", hoverlabel: { bgcolor: this.c.card, bordercolor: this.c.rule, font: { ...this.font, color: this.c.ink } },
      xaxis: this.axis(x), yaxis: this.axis(y), shapes: this.now ?? [], ...more };
  }
  words(text) { return { text, showarrow: false, font: this.font, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }; }
  line(x, y, color, more = {}) {
    return { x, y, type: "scatter", mode: "lines", connectgaps: true, ...more, line: { color, width: Math.max(1.6, this.font.size / 8), ...more.line }, hovertemplate: more.hovertemplate ?? "%{y}<extra></extra>" };
  }

  // Draw soon: one chart after the other, each in the gap after a frame, or when no frame came for a while.
  plan(id, data, layout) {
    if (typeof Plotly === "undefined") return;
    this.queue.set(id, [data, layout]);
    this.timer ??= setTimeout(() => this.next(), LATEST_MS);
  }
  gap() { if (this.queue.size && !this.waits) { this.waits = true; requestAnimationFrame(() => setTimeout(() => { this.waits = false; this.next(); }, 0)); } } // after the paint
  next() {
    clearTimeout(this.timer); this.timer = null;
    const [id] = this.queue.keys();
    if (id === undefined) return;
    const [data, layout] = this.queue.get(id);
    this.queue.delete(id);
    Plotly.react(id, data, layout, { displayModeBar: false, responsive: true, doubleClick: false, showTips: false }).then((chart) => {
      if (chart.dataset.listens || !this.pick || !TIMED.includes(id)) return;
      chart.dataset.listens = "yes";
      chart.on("plotly_click", ({ points: [p] }) => { const frame = this.frameAt(p.x); if (frame !== null) this.pick(frame); });
    });
    if (this.queue.size) this.timer = setTimeout(() => this.next(), LATEST_MS);
  }

  // The curves over time. nm: nm per px or null; events: the last ones; here: time_s of the shown frame when looking back.
  overTime(curves, nm, { events = [], here = null, open = () => true } = {}) {
    this.theme();
    const rows = curves.rows(), t0 = curves.start ?? 0, span = (rows.at(-1)?.time_s ?? 0) - t0;
    const byTime = span > 0, [per, unit] = elapsedUnit(span);
    const at = (r) => (byTime ? (r.time_s - t0) / per : r.frame);
    const x = rows.map(at), seen = rows.filter((r) => r.particles !== null), xs = seen.map(at);
    const end = x.at(-1) || 1, time = { title: byTime ? unit : "frame", range: [0, end], nticks: 6, hoverformat: byTime ? ".1f" : "d" };
    this.scale = { byTime, t0, per, rows };
    const upright = (r, line) => ({ type: "line", x0: at(r), x1: at(r), yref: "paper", y0: 0, y1: 1, line: { width: 1.2, ...line } });
    const anchors = rows.filter((r, i) => i && r.status & ANCHOR); // numbers may step there: another part of the sample
    this.now = anchors.length > MOST_ANCHORS ? [] : anchors.map((r) => upright(r, { color: this.c.second, dash: "dash" }));
    if (here !== null) this.now.push(upright(here, { color: this.c.ink, dash: "dot" }));
    if (open("chart-count")) this.count(seen, xs, time, [
      ...events.map((e) => [byTime ? (e.time_s - t0) / per : e.frame, `${e.kind}${e.track >= 0 ? ` #${e.track}` : ""}, frame ${e.frame}`, EVENTS[e.kind] ?? "star"]),
      ...anchors.map((r) => [at(r), `new anchor, frame ${r.frame}: another part of the sample is seen`, "x"]),
    ]);
    if (open("chart-growth")) this.growth(seen, xs, time, nm);
    if (open("chart-diameter")) this.diameter(seen, xs, time, nm);
    if (open("chart-drift")) this.drift(rows, x, time, nm);
  }
  // The frame that stands at a place of a chart over time.
  frameAt(x) {
    const { byTime, t0, per, rows } = this.scale ?? { rows: [] };
    let best = null, least = Infinity;
    for (const r of rows) { const d = Math.abs((byTime ? (r.time_s - t0) / per : r.frame) - x); if (d < least) { least = d; best = r.frame; } }
    return best;
  }

  count(seen, xs, time, events) { // events: place, words, mark
    const count = seen.map((r) => r.particles), top = Math.max(4, ...count) * 1.12;
    const rug = { x: events.map(([x]) => x), y: events.map(() => 0), type: "scatter", mode: "markers", yaxis: "y2", hovertemplate: "%{customdata}<extra></extra>",
      customdata: events.map(([, words]) => words), marker: { symbol: events.map(([, , mark]) => mark), color: this.c.second, size: this.font.size * 0.62, line: { width: 1.3 } } };
    this.plan("chart-count", [this.line(xs, count, this.c.accent), rug], this.layout({ ...time, anchor: "y2" }, { rangemode: "tozero", nticks: 5, range: [0, top], tickformat: "d", domain: [0.13, 1] },
      { yaxis2: this.axis({ domain: [0, 0.09], range: [-1, 1], showgrid: false, showticklabels: false }) }));
  }
  growth(seen, xs, time, nm) {
    const k = nm ?? 1, top = seen.reduce((a, r) => Math.max(a, Math.abs(r.growth ?? 0) * k), 0), [, , unit] = rate(top, null, nm ? "nm/s" : "px/s");
    const f = k * { s: 1, min: 60, h: 3600 }[unit.split("/")[1]], off = (sign) => seen.map((r) => (r.growth === null || r.growth_error === null ? null : (r.growth + sign * r.growth_error) * f));
    this.plan("chart-growth", [
      this.line(xs, off(-1), this.c.band, { line: { width: 0 }, hoverinfo: "skip", hovertemplate: null }),
      this.line(xs, off(1), this.c.band, { line: { width: 0 }, fill: "tonexty", fillcolor: this.c.band, hoverinfo: "skip", hovertemplate: null }),
      this.line(xs, seen.map((r) => (r.growth === null ? null : r.growth * f)), this.c.accent, { hovertemplate: `%{y} ${unit}<extra></extra>` }),
    ], this.layout(time, { title: unit, nticks: 5, zeroline: true, zerolinecolor: this.c.rule }));
  }
  diameter(seen, xs, time, nm) {
    const [, lengthUnit, k] = this.lengths(seen.map((r) => r.q90 ?? r.median), nm), of = (key) => seen.map((r) => (r[key] === null ? null : r[key] * k));
    this.plan("chart-diameter", [
      this.line(xs, of("q10"), this.c.band, { line: { width: 0 }, hoverinfo: "skip", hovertemplate: null }),
      this.line(xs, of("q90"), this.c.band, { line: { width: 0 }, fill: "tonexty", fillcolor: this.c.band, hoverinfo: "skip", hovertemplate: null }),
      this.line(xs, of("median"), this.c.accent, { hovertemplate: `%{y} ${lengthUnit}<extra></extra>` }),
    ], this.layout(time, { title: lengthUnit, rangemode: "tozero", nticks: 5 }));
  }
  // How all sizes change: told as /api/distribution does, edges in px.
  evolution({ edges, frame, time_s, counts }, nm, start) {
    this.theme();
    if (counts.length < 2 || edges.length < 2) { this.plan("chart-evolution", [], this.layout({}, {})); return; }
    const byTime = time_s.at(-1) > time_s[0], [per, unit] = byTime ? elapsedUnit(time_s.at(-1) - start) : [1, "frame"];
    const x = byTime ? time_s.map((t) => (t - start) / per) : frame, [, lengthUnit, k] = this.lengths(edges, nm), y = edges.map((e) => e * k);
    const z = y.slice(1).map((_, j) => counts.map((column) => column[j] || null)); // nothing: the ground
    this.now = [];
    this.plan("chart-evolution", [{ type: "heatmap", x, y, z, zsmooth: false, showscale: false, hoverongaps: false, colorscale: [[0, this.c.band], [0.35, this.c.accent], [1, this.c.peak]],
      hovertemplate: `%{y:.3g} ${lengthUnit}: %{z:.1f}<extra></extra>` }],
    this.layout({ title: unit, nticks: 6, showgrid: false }, { title: lengthUnit, type: "log", tickvals: ladder(y[0], y.at(-1)), tickmode: "array", showgrid: false, range: [Math.log10(y[0]), Math.log10(y.at(-1))] }, { hovermode: "closest" }));
  }

  drift(rows, x, time, nm) {
    const [, unit, k] = this.lengths(rows.flatMap((r) => [Math.abs(r.shift_y), Math.abs(r.shift_x)]), nm), move = (key) => rows.map((r) => (r[key] === null ? null : r[key] * k));
    const confidence = { domain: [0, 0.17], range: [0, 1.02], tickvals: [0, 1], showgrid: false };
    const odd = STATUS.map(([bit, words, symbol]) => {
      const at = rows.map((r, i) => (r.status & bit ? i : -1)).filter((i) => i >= 0);
      return { x: at.map((i) => x[i]), y: at.map(() => 1), yaxis: "y3", type: "scatter", mode: "markers", hovertemplate: `${words}<extra></extra>`, marker: { symbol, color: this.c.second, size: this.font.size * 0.66, line: { width: 1.5 } } };
    }).filter((t) => t.x.length);
    this.plan("chart-drift", [
      this.line(x, move("shift_y"), this.c.accent, { hovertemplate: `y %{y} ${unit}<extra></extra>` }),
      this.line(x, move("shift_x"), this.c.second, { line: { dash: "dash" }, hovertemplate: `x %{y} ${unit}<extra></extra>` }),
      this.line(x, rows.map((r) => r.confidence), this.c.soft, { yaxis: "y2", fill: "tozeroy", fillcolor: this.c.band, line: { width: 1 }, hovertemplate: "confidence %{y}<extra></extra>" }),
      ...odd,
    ], this.layout({ ...time, anchor: "y2" }, { title: unit, domain: [0.27, 0.94], nticks: 5 }, { yaxis2: this.axis(confidence), yaxis3: this.axis({ domain: [0.95, 1], range: [0, 2], showgrid: false, showticklabels: false }) }));
  }

  // [1, unit, factor from px] that suits these lengths in px.
  lengths(values, nm) {
    if (!nm) return [1, "px", 1];
    const top = values.reduce((a, b) => Math.max(a, b ?? 0), 0) * nm, [n, unit] = inUnits(top || 1);
    return [1, unit, nm * (top ? n / top : 1)];
  }

  // range: the sizes at the two ends of the colours; null = one colour (outlines tell the tracks)
  sizes(diameters, unit, range) {
    this.theme(); this.now = [];
    if (!diameters.length) { this.plan("chart-sizes", [], this.layout({ visible: false }, { visible: false }, { annotations: [this.words("No whole particle in this frame")] })); return; }
    const b = this.bins = bins(diameters, this.bins), x = b.counts.map((_, i) => (i + 0.5) * b.width);
    const top = Math.max(4, ...b.counts), ceiling = this.ceiling = this.ceiling >= top && this.ceiling < top * 1.8 ? this.ceiling : top * 1.2;
    this.plan("chart-sizes", [{ type: "bar", x, y: b.counts, width: b.width * 0.9, marker: { color: range ? x.map((v) => sizeColour(v, range)) : this.c.accent, line: { width: 0 } },
      customdata: x.map((v) => [+(v - b.width / 2).toPrecision(3), +(v + b.width / 2).toPrecision(3)]), hovertemplate: `%{customdata[0]}–%{customdata[1]} ${unit}: %{y}<extra></extra>` }],
    this.layout({ title: unit, range: [0, b.end] }, { range: [0, ceiling], nticks: 5, tickformat: "d" }, { hovermode: "closest", bargap: 0 }));
  }

  // One particle's diameter over time. past: {frame, time_s, diameter}; t0: the run's first time; here: the shown frame.
  particle(past, unit, colour, t0, here) {
    this.theme(); this.now = [];
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
