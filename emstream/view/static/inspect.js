// The particle that somebody selected: where it is in each frame, its past, what became of it.
import { trackColour } from "./colours.js";
import { ENDS, row } from "./happenings.js";
import { Past } from "./past.js";
import { inUnits } from "./numbers.js";

const $ = (id) => document.getElementById(id), SURE_AFTER = 10, ASK_AGAIN_MS = 5000;
const three = (x) => (x >= 1000 ? Math.round(x) : +x.toPrecision(3));
function length(value, unit) { const [n, u] = unit === "nm" ? inUnits(value) : [value, unit]; return `${three(n)} ${u}`; }
function area(value, unit) { return unit === "nm" && value >= 1e6 ? `${three(value / 1e6)} µm²` : `${three(value)} ${unit}²`; }

export class Inspector {
  // when(event) and elapsed(time_s) → words; jump(event) looks at an event; live() whether the page follows the run;
  // stored() whether there are tables to ask
  constructor({ stage, charts, when, elapsed, jump, live, stored, start }) {
    Object.assign(this, { stage, charts, when, elapsed, jump, live, stored, start });
    this.past = new Past(); this.clear();
  }
  clear() { this.selected = this.told = this.row = null; this.events = []; this.message = null; this.stage.chosen = null; }
  newRun() { this.past.clear(); this.clear(); this.show(); }

  // ---- which one
  track(track, of = null) { // by number; `of`: where it was last seen
    if (this.selected?.track === track && track >= 0) return;
    this.selected = { track, at: of }; this.told = null; this.events = [];
    this.ask(); this.follow(this.message); this.stage.lay(); this.show(); this.onSelect?.(true);
  }
  label(label) {
    if (label === null || !this.message) { this.deselect(); return; }
    const { sizes } = this.message.header, i = this.stage.rows(this.message.header).get(label);
    if (i === undefined) return;
    this.selected = null;
    this.track(sizes.tracks?.[i] ?? -1, this.place(sizes, i));
  }
  deselect() {
    if (!this.selected) return false;
    this.selected = this.told = this.row = null; this.events = []; this.stage.chosen = null;
    this.stage.lay(); this.show(); this.onSelect?.(false);
    return true;
  }
  next(by) { // in the order of the frame's particles
    const sizes = this.message?.header.sizes;
    if (!sizes?.labels?.length) return;
    const n = sizes.labels.length, i = this.row ?? (by > 0 ? -1 : 0);
    this.label(sizes.labels[(i + by + n) % n]);
  }
  place(sizes, i) { return sizes.y ? { y: sizes.y[i], x: sizes.x[i], r: sizes.diameters[i] / 2 } : null; }

  // Find the selected particle in a message, before it is drawn.
  follow(message) {
    this.message = message; this.row = null; this.stage.chosen = null;
    if (!message) return;
    const { header } = message, { sizes } = header, s = this.selected;
    if (this.live()) this.past.add(header);
    if (!s) return;
    let i = s.track >= 0 && sizes.tracks ? sizes.tracks.indexOf(s.track) : -1;
    if (i < 0 && s.at && sizes.y && (s.track < 0 || !sizes.tracks)) { // not followed yet: the one that lies there
      let least = s.at.r ** 2;
      sizes.y.forEach((y, j) => { const d = (y - s.at.y) ** 2 + (sizes.x[j] - s.at.x) ** 2; if (d <= least) { least = d; i = j; } });
      if (i >= 0 && s.track < 0 && sizes.tracks?.[i] >= 0) { s.track = sizes.tracks[i]; this.ask(); }
    }
    if (i < 0) return;
    this.row = i; s.at = this.place(sizes, i) ?? s.at;
    this.stage.chosen = sizes.labels?.[i] ?? i + 1;
  }

  // ---- what is known of it
  async ask(points = !this.live()) {
    const track = this.selected?.track ?? -1, run = this.message?.header.run;
    if (track < 0 || !run) return;
    this.askedAt = performance.now();
    const name = encodeURIComponent(run), mine = () => this.selected?.track === track && this.message?.header.run === run;
    try {
      if (this.stored()) {
        const answer = await fetch(`/api/runs/${name}/tracks/${track}?points=${points ? 1 : 0}`);
        if (answer.status === 200 && mine()) { const told = await answer.json(); this.told = told; this.events = told.events; }
      }
      if (this.live()) {
        const answer = await fetch(`/api/events?run=${name}&track=${track}`);
        if (answer.ok && mine()) this.add((await answer.json()).events);
      }
    } catch { /* the link's pill says it */ }
    if (mine()) this.show();
  }
  add(events) { // those of this particle that are new
    const track = this.selected?.track ?? -1, known = new Set(this.events.map((e) => JSON.stringify([e.frame, e.kind, e.track, e.other_track])));
    const mine = events.filter((e) => track >= 0 && (e.track === track || e.other_track === track) && !known.has(JSON.stringify([e.frame, e.kind, e.track, e.other_track])));
    this.events = [...this.events, ...mine].sort((a, b) => a.frame - b.frame).slice(-200);
    if (mine.length) this.show();
  }
  get curve() {
    const stored = !this.live() && this.told?.points?.frame?.length ? this.told.points : null;
    return stored ?? this.past.of.get(this.selected?.track) ?? null;
  }

  // Where it is now: in words, empty while it is seen.
  fate(frame) {
    const { track } = this.selected, told = this.told, curve = this.curve;
    if (track < 0) return this.row === null ? "No longer here; it had no track yet" : "Not tracked yet";
    if (this.row !== null) return "";
    const last = told?.last_frame ?? curve?.frame.at(-1), first = told?.first_frame ?? curve?.frame[0];
    if (first !== undefined && first !== null && frame < first) return `First seen later, in frame ${first}`;
    if (!this.live() && last !== undefined && frame <= last) return "Not seen in this frame";
    const after = last === undefined ? "" : ` after frame ${last}`;
    const merged = this.events.find((e) => e.kind === "coalescence" && e.other_track === track), gone = this.events.find((e) => ENDS[e.kind] && e.track === track);
    if (merged) return `Merged into #${merged.track}${after}`;
    if (gone) return `${ENDS[gone.kind]}${after}`;
    if (told?.ended === "edge") return `Left at the edge${after}`;
    if (told?.ended === "lost") return `Lost${after}`;
    if (told?.ended === "end") return `Seen until the end of the run`;
    if (last === undefined) return "Not in this frame";
    return frame - last > SURE_AFTER ? `Lost${after}` : `Not seen since frame ${last}`;
  }
  first() {
    const told = this.told, curve = this.curve, live = this.past.of.get(this.selected.track);
    if (typeof told?.first_frame === "number") return [told.first_frame, told.first_time_s, ""];
    if (!live) return curve ? [curve.frame[0], curve.time_s[0], ""] : null;
    return [live.frame[0], live.time_s[0], live.frame[0] === this.past.from && live.frame[0] > 0 ? " or before" : ""];
  }

  show() {
    const s = this.selected;
    $("one").hidden = !s; $("no-particle").hidden = Boolean(s);
    document.documentElement.dataset.track = s ? s.track : "";
    if (!s || !this.message) return;
    const { header } = this.message, { sizes } = header, i = this.row, frame = header.outlines_frame ?? header.frame, curve = this.curve;
    const say = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
    const last = this.past.of.get(s.track)?.last, j = curve ? Math.max(0, curve.frame.findLastIndex((f) => f <= frame)) : -1;
    const value = (key, column) => (i !== null ? sizes[column]?.[i] : (curve?.[key]?.[j] ?? last?.[key])) ?? null;
    const unit = sizes.unit, d = value("diameter", "diameters"), a = value("area", "areas"), y = value("y", "y"), x = value("x", "x"), first = this.first();
    const tone = trackColour(s.track);
    $("particle-dot").style.background = tone;
    say("particle-track", s.track < 0 ? "Particle" : `Particle #${s.track}`);
    say("particle-fate", this.fate(frame));
    say("particle-diameter", d === null ? "–" : length(d, unit)); say("particle-area", a === null ? "–" : area(a, unit));
    say("particle-place", y === null || x === null ? "–" : `${three(x)}, ${three(y)} ${unit}`);
    say("particle-first", first ? `frame ${first[0]}${first[2] || this.elapsed(first[1])}` : "–");
    const key = JSON.stringify(this.events.map((e) => [e.frame, e.kind, e.track, e.other_track]));
    if ($("particle-events").dataset.shown !== key) {
      $("particle-events").dataset.shown = key;
      $("particle-events").replaceChildren(...this.events.map((e) => row(e, this.when, this.jump)));
    }
    this.stale = true;
  }
  // The small chart, and whether the tables know by now what became of it: not with every frame.
  slowly() {
    const s = this.selected;
    if (!s || !this.message) return;
    if (s.track >= 0 && this.row === null && this.live() && !this.told?.ended && performance.now() - this.askedAt > ASK_AGAIN_MS) this.ask();
    if (!this.stale) return;
    this.stale = false;
    const { header } = this.message, curve = this.curve ?? { frame: [], time_s: [], diameter: [] };
    this.charts.particle(curve, header.sizes.unit, trackColour(s.track), this.start() ?? curve.time_s[0] ?? null, header.outlines_frame ?? header.frame);
  }
}
