// The page: what is shown (live, paused, or a frame looked up), and every number on it.
import { Charts, Curves, elapsedUnit } from "./charts.js";
import { Feed, unpack } from "./feed.js";
import { Happenings } from "./happenings.js";
import { Inspector } from "./inspect.js";
import { Stage, inUnits } from "./stage.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage($("view")), charts = new Charts(), curves = new Curves();
const now = { run: null, current: "", frames: 0, mode: "live", paused: false, linked: false, why: "", daemon: null, message: null, pending: null, runs: [], playing: null, asked: 0, dirty: false };

// ---- numbers
const digits = (x, n = 3) => (x === 0 ? "0" : Math.abs(x) >= 10 ** (n - 1) ? Math.round(x).toLocaleString("en", { useGrouping: true }).replaceAll(",", " ") : String(+x.toPrecision(n)));
function put(id, value, unit = "") {
  const text = value === null || value === undefined || Number.isNaN(value) ? "–" : typeof value === "number" ? digits(value) : value;
  const element = $(id), wanted = text === "–" ? text : text + unit;
  if (element.dataset.shown === wanted) return;
  element.dataset.shown = wanted;
  element.textContent = text;
  if (unit && text !== "–") { const u = document.createElement("span"); u.className = "u"; u.textContent = unit; element.append(u); }
}
function putLength(id, value, unit, per = "") {
  if (value === null || value === undefined) { put(id, null); return; }
  const [n, u] = unit === "nm" ? inUnits(value) : [value, unit];
  put(id, +n.toPrecision(3), u + per);
}
function span(seconds) {
  const s = Math.max(0, Math.floor(seconds)), two = (n) => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}
function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"]; let i = 0;
  while (n >= 1000 && i < 5) { n /= 1000; i++; }
  return [+n.toPrecision(3), units[i]];
}

// ---- one frame
function sizeRange(diameters) { // colours follow the sizes slowly
  if (!diameters.length) return now.range ?? [0, 1];
  const sorted = [...diameters].sort((a, b) => a - b), q = (p) => sorted[Math.floor(p * (sorted.length - 1))];
  const wanted = [q(0.05), Math.max(q(0.95), q(0.05) * 1.2 + 1e-6)];
  now.range = now.range ? now.range.map((v, i) => v + (wanted[i] - v) * 0.1) : wanted;
  return now.range;
}
function draw(message) {
  const { header } = message;
  now.message = message; now.dirty = true;
  if (header.run !== now.run || header.run !== inspector.run) { now.run = inspector.run = header.run; now.range = null; charts.clear(); curves.clear(); happenings.clear(); inspector.newRun(); }
  if (now.mode === "live") now.frames = header.frame + 1;
  inspector.follow(message);
  stage.show(message, sizeRange(header.sizes.diameters));
  inspector.show();
  put("frame", digits(header.frame, 12));
  put("clock", header.time_s > 1e8 ? new Date(header.time_s * 1000).toLocaleString("sv") : null);
  put("particles", header.particles);
  putLength("median", header.sizes.median, header.sizes.unit);
  put("area", header.area_fraction === null ? null : +(header.area_fraction * 100).toPrecision(3), "%");
  const nm = header.drift_speed_nm_per_s;
  putLength("speed", nm ?? header.drift_speed_px_per_s, nm === null ? "px" : "nm", "/s");
  put("confidence", header.confidence === null ? null : header.confidence.toFixed(2));
  $("confidence").classList.toggle("low", header.confidence !== null && header.confidence < 0.3);
  $("unit-note").hidden = header.pixel_size_nm !== null;
  $("sizes-of").textContent = header.outlines_frame === null || header.outlines_frame === header.frame ? "this frame" : `frame ${digits(header.outlines_frame, 12)}`;
  elapsed(); scrubber(); describe();
  document.documentElement.dataset.frame = header.frame;
}
function elapsed() {
  const start = curves.start, t = now.message?.header.time_s;
  put("elapsed", start === null || t === undefined ? null : span(t - start));
}
function onFrame(message) {
  if (now.mode !== "live" || now.paused) { now.held = true; return; }
  const first = now.pending === null;
  now.pending = message;
  if (first) requestAnimationFrame(() => {
    const newest = now.pending;
    now.pending = null;
    if (now.mode !== "live" || now.paused) { now.held = true; return; }
    draw(newest);
    feed.credit();
  });
}

// ---- state and warnings
function describe() {
  const d = now.daemon, waiting = !now.message;
  const [kind, text] = !now.linked ? ["lost", now.why || "Reconnecting"]
    : now.mode === "look" ? (now.playing ? ["past", "Playing"] : ["past", liveRun() ? "Looking back" : "Stored run"])
    : now.paused ? ["paused", "Paused"]
    : waiting ? ["wait", "Waiting for frames"]
    : d?.state && !["streaming", "starting"].includes(d.state) ? ["live", d.state[0].toUpperCase() + d.state.slice(1)] : ["live", "Live"];
  $("state").dataset.kind = kind; $("state").textContent = text;
  $("pause").setAttribute("aria-pressed", String(now.mode === "look" ? !now.playing : now.paused));
  $("live").dataset.on = String(now.mode === "live" && !now.paused); $("live").disabled = !canGoLive() || (now.mode === "live" && !now.paused);
  $("run-name").textContent = now.run ?? "no run yet";
  $("empty").textContent = now.linked ? "Waiting for the first frame" : "Connecting";
  document.title = now.run ? `${now.run} · emstream` : "emstream";
  warn();
}
function warn() {
  const d = now.daemon, header = now.message?.header, list = [...(d?.warnings ?? [])];
  if (d && !d.watch_up) list.push("No hints from the file system: new frames are found by scanning");
  if (d?.lost) list.push(`${d.lost} frames were lost`);
  if (header?.status.includes("lost_lock")) list.push("Alignment began a new anchor here");
  if (header?.status.includes("suspect")) list.push("Alignment may follow a fixed pattern or moving particles");
  if (header?.agreement !== null && header?.agreement < 0.5) list.push(`Segmentation is uncertain: agreement ${header.agreement.toFixed(2)}`);
  const text = list.join("\n");
  if ($("warnings").dataset.shown === text) return;
  $("warnings").dataset.shown = text; $("warnings").hidden = !list.length;
  $("warnings").replaceChildren(...list.map((t) => Object.assign(document.createElement("li"), { textContent: t })));
}
function onStatus(d) {
  now.daemon = d; now.current = d.run;
  put("fps", +d.fps.toPrecision(3), "frames/s");
  put("lag", d.lag_s < 1 ? Math.round(d.lag_s * 1000) : +d.lag_s.toPrecision(3), d.lag_s < 1 ? "ms" : "s");
  put("backlog", d.backlog, d.backlog === 1 ? "frame" : "frames");
  put("committed", digits(d.committed, 12), "frames");
  put("quarantined", d.quarantined, d.quarantined === 1 ? "file" : "files");
  $("quarantined").classList.toggle("low", d.quarantined > 0);
  if (d.free_bytes === null) put("free", null); else { const [n, u] = bytes(d.free_bytes); put("free", n, d.free_s && d.free_s < 864000 ? `${u}, ${span2(d.free_s)}` : u); }
  put("device", d.device); put("model", d.model || null);
  describe();
}
function span2(s) { return s < 5400 ? `${Math.round(s / 60)} min` : s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`; }

// ---- looking back
const liveRun = () => Boolean(now.run && now.runs.find((r) => r.name === now.run)?.following);
const canGoLive = () => Boolean(now.current);
function scrubber() {
  const slider = $("scrub");
  slider.max = Math.max(0, now.frames - 1);
  slider.disabled = now.frames < 2 || !now.shelf;
  if (document.activeElement !== slider || now.mode === "live" || now.playing) slider.value = now.mode === "live" ? slider.max : now.message.header.frame;
}
async function lookAt(run, index) { // the newest wish wins; one request at a time
  now.mode = "look"; now.wish = [run, Math.max(0, index)]; now.pending = null;
  describe();
  if (now.fetching) return;
  now.fetching = true;
  try {
    while (now.wish) {
      const [name, i] = now.wish; now.wish = null;
      const answer = await fetch(`/api/runs/${encodeURIComponent(name)}/frame/${i}`);
      if (now.mode !== "look") break;
      if (answer.ok) draw(unpack(await answer.arrayBuffer()));
      else { stop(); break; }
    }
  } catch { stop(); } finally { now.fetching = false; now.wish = null; }
}
function stop() { clearInterval(now.playing); now.playing = null; }
function goLive() {
  if (!canGoLive()) return;
  stop(); now.mode = "live"; now.paused = false; now.held = false;
  if (now.run && !liveRun()) { now.run = null; feed.look(null); } else feed.look(feed.run);
  describe(); soon();
}
function pause() {
  if (now.mode === "look") {
    if (now.playing) stop();
    else {
      let i = now.message?.header.frame ?? 0;
      if (i >= now.frames - 1) i = -1;
      now.playing = setInterval(() => { if (now.fetching) return; if (++i >= now.frames) stop(); else lookAt(now.run, i); describe(); }, 80);
    }
  } else {
    now.paused = !now.paused;
    if (!now.paused) { now.held = false; feed.look(feed.run); }
  }
  describe();
}
function step(by) {
  if (!now.shelf || !now.message) return;
  stop();
  lookAt(now.run, Math.min(now.frames - 1, (now.wish?.[1] ?? now.message.header.frame) + by));
}

// ---- runs
async function loadRuns() {
  const answer = await fetch("/api/runs");
  if (!answer.ok) return;
  const { runs, current, live, shelf } = await answer.json();
  now.current = current; now.shelf = shelf;
  now.runs = runs.map((r) => ({ ...r, following: live.includes(r.name) }));
  $("run-list").replaceChildren(...[...now.runs].reverse().map((r) => {
    const row = document.createElement("li"), button = document.createElement("button"), name = document.createElement("span"), more = document.createElement("small");
    name.textContent = r.name;
    more.textContent = `${digits(r.frames ?? 0, 12)} frames${r.name === current ? " · live" : ""}`; more.className = r.name === current ? "is-live" : "";
    button.setAttribute("aria-current", String(r.name === now.run)); button.onclick = () => { choose(r); };
    button.append(name, more); row.append(button); return row;
  }));
  if (!now.runs.length) $("run-list").append(Object.assign(document.createElement("li"), { textContent: "none yet", className: "soft" }));
  const mine = now.runs.find((r) => r.name === now.run);
  if (mine && now.mode === "look" && mine.frames) now.frames = mine.frames;
  if (now.message) scrubber();
  if (!current && !now.message && now.runs.length && shelf) choose(now.runs.at(-1));
}
function choose(r) {
  openRuns(false); stop();
  if (r.following) { now.mode = "live"; now.paused = false; now.run = null; curves.clear(); feed.look(r.name === now.current ? null : r.name); return; }
  now.run = r.name; now.range = null; now.frames = r.frames ?? 0; curves.clear(); charts.clear();
  lookAt(r.name, 0).then(soon);
}
function openRuns(open = !$("runs").classList.contains("open")) {
  $("runs").classList.toggle("open", open); $("run").setAttribute("aria-expanded", String(open));
  if (open) loadRuns();
}

// ---- one particle, and what happened
const clock = (t) => { // since the run began
  const s = t === null || t === undefined || curves.start === null ? null : t - curves.start;
  return s === null ? "" : s < 60 ? `${s.toFixed(s < 10 ? 2 : 1)} s` : span(s);
};
const since = (t) => (clock(t) ? ` · ${clock(t)}` : "");
const when = (e) => [digits(e.frame, 12), clock(e.time_s)];
const inspector = new Inspector({ stage, charts, when, elapsed: since, jump, live: () => now.mode === "live", stored: () => Boolean(now.shelf), start: () => curves.start });
const happenings = new Happenings({ list: $("event-list"), empty: $("no-events"), heads: $("event-heads"), count: $("event-count"), when, onPick: jump, onNew: (events) => inspector.add(events) });
function jump(e) { // live: its particle; looking back: there, while what goes can still be seen
  if (now.mode === "look") { stop(); lookAt(now.run, e.frame - (["dissolution", "detachment"].includes(e.kind) ? 1 : 0)); }
  inspector.track(e.track);
}
function tab(name) {
  const wanted = document.querySelector(`[role=tab][aria-controls="${name}"]`);
  for (const each of wanted.closest("[role=tablist]").children) each.setAttribute("aria-selected", String(each === wanted));
}
function colour(byTrack = !stage.byTrack) {
  stage.byTrack = byTrack; stage.lay();
  $("by-track").setAttribute("aria-pressed", String(byTrack)); $("by-size").setAttribute("aria-pressed", String(!byTrack));
  try { localStorage.setItem("emstream-colour", byTrack ? "track" : "size"); } catch { /* storage is off */ }
  now.dirty = true;
}
stage.picked = (label) => inspector.label(label);
inspector.onSelect = (some) => { tab(some ? "particle" : "chart-sizes"); soon(); };
for (const each of document.querySelectorAll("[role=tab]")) each.onclick = () => tab(each.getAttribute("aria-controls"));
$("by-track").onclick = () => colour(true); $("by-size").onclick = () => colour(false); $("particle-close").onclick = () => inspector.deselect();
try { if (localStorage.getItem("emstream-colour") === "size") colour(false); } catch { /* storage is off */ }

// ---- charts: at most four times a second, only what changed
let timer = 0;
function soon() { clearTimeout(timer); timer = setTimeout(refresh, 0); }
async function refresh() {
  timer = setTimeout(refresh, 500);
  if (document.hidden || !now.message || (now.paused && now.mode === "live" && !now.retheme)) return;
  const { header } = now.message, nm = header.pixel_size_nm ? Math.sqrt(header.pixel_size_nm[0] * header.pixel_size_nm[1]) : null;
  if (now.dirty || now.retheme) charts.sizes(header.sizes.diameters, header.sizes.unit, stage.byTrack ? null : now.range ?? [0, 1]);
  if (now.retheme) inspector.stale = true;
  inspector.slowly();
  happenings.refresh(header.run, now.frames, liveRun()).catch(() => {});
  try {
    const answer = await fetch(`/api/history?run=${encodeURIComponent(header.run)}&version=${curves.version}&stride=${curves.stride}`);
    if (answer.ok) {
      const delta = await answer.json(), changed = delta.frame.length || delta.reset;
      const start = curves.start;
      if (delta.run === now.run && changed) curves.merge(delta);
      if (curves.start !== start) { happenings.draw(); inspector.show(); } // their times are counted from there
      if (changed || now.retheme) charts.overTime(curves, nm);
    }
  } catch { /* the link's pill says it */ }
  now.dirty = now.retheme = false;
  elapsed();
}

// ---- hands
function theme() {
  const dark = document.documentElement.dataset.theme !== "dark";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  try { localStorage.setItem("emstream-theme", dark ? "dark" : "light"); } catch { /* storage is off */ }
  now.retheme = true; soon();
}
function outlines() {
  stage.outlined = !stage.outlined; stage.lay();
  $("outlines").setAttribute("aria-pressed", String(stage.outlined));
}
stage.changed = () => { $("fit").disabled = stage.zoom === 1; };
$("pause").onclick = pause; $("live").onclick = goLive; $("outlines").onclick = outlines; $("fit").onclick = () => stage.fit();
$("theme").onclick = theme; $("help").onclick = () => $("keys").showModal(); $("run").onclick = () => openRuns();
$("scrub").oninput = (e) => { stop(); lookAt(now.run, +e.target.value); };
addEventListener("pointerdown", (e) => { if (!$("runs").contains(e.target) && !$("run").contains(e.target)) openRuns(false); });
addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || $("keys").open) return;
  const keys = { " ": pause, o: outlines, d: theme, l: goLive, f: () => stage.fit(), r: () => openRuns(), "?": () => $("keys").showModal(), Escape: () => { if ($("runs").classList.contains("open")) openRuns(false); else inspector.deselect(); },
    c: () => colour(), e: () => tab("events"), n: () => inspector.next(1), N: () => inspector.next(-1),
    ArrowLeft: () => step(e.shiftKey ? -10 : -1), ArrowRight: () => step(e.shiftKey ? 10 : 1) };
  if (!keys[e.key] || (e.key === " " && e.target.closest?.("button"))) return; // a button in focus is pressed
  e.preventDefault(); keys[e.key]();
});
addEventListener("resize", () => { now.retheme = true; });

const feed = new Feed({ onFrame, onStatus, onLink: (linked, why) => { now.linked = linked; now.why = why; describe(); if (linked) loadRuns(); } });
setInterval(() => { if (!document.hidden) loadRuns().catch(() => {}); }, 5000);
soon();
export { now, curves, elapsedUnit };
