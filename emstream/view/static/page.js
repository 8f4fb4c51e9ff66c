// The page: what is shown (live, paused, or a frame looked up), and every number on it.
import { Alarms } from "./alarms.js";
import { Charts, Curves, elapsedUnit } from "./charts.js";
import { Feed, unpack } from "./feed.js";
import { Happenings } from "./happenings.js";
import { Inspector } from "./inspect.js";
import { LineView } from "./line.js";
import { $, digits, put, remembered, span } from "./numbers.js";
import { Stage } from "./stage.js";
import { daemon, tiles, warn } from "./tiles.js";

const COLOURS = ["track", "size", "growth"], CALM_MS = 300;
const stage = new Stage($("view")), charts = new Charts(), curves = new Curves();
const now = { run: null, current: "", frames: 0, mode: "live", paused: false, linked: false, why: "", daemon: null, message: null, pending: null, runs: [], playing: null, wished: 0, dirty: false };

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
  if (header.run !== now.run || header.run !== inspector.run) { now.run = inspector.run = header.run; now.range = null; now.fastest = 0; charts.clear(); curves.clear(); happenings.clear(); line.clear(header.run); inspector.newRun(); loadLabels(header.run); }
  if (now.mode === "live") now.frames = header.frame + 1;
  inspector.follow(message); line.mark(header.frame); fastest(header.sizes.growth);
  stage.show(message, sizeRange(header.sizes.diameters));
  inspector.show();
  put("frame", digits(header.frame, 12));
  put("clock", header.time_s > 1e8 ? new Date(header.time_s * 1000).toLocaleString("sv") : null);
  tiles(header, now.daemon);
  $("sizes-of").textContent = header.outlines_frame === null || header.outlines_frame === header.frame ? "this frame" : `frame ${digits(header.outlines_frame, 12)}`;
  elapsed(); scrubber(); describe();
  document.documentElement.dataset.frame = header.frame;
}
function fastest(growth) { // the rate at the two ends of the colours follows slowly
  const known = (growth ?? []).filter((v) => v !== null).map(Math.abs).sort((a, b) => a - b);
  if (!known.length) return;
  const wanted = known[Math.floor(0.9 * (known.length - 1))] || 1e-9;
  stage.fastest = now.fastest = now.fastest ? now.fastest + (wanted - now.fastest) * 0.1 : wanted;
}
function elapsed() {
  const start = curves.start, t = now.message?.header.time_s;
  put("elapsed", start === null || t === undefined ? null : span(t - start));
}
function onFrame(message) { // drawn at once: a frame comes only after the one before was drawn; unseen pages wait until they are looked at
  if (document.hidden) { const first = !now.pending; now.pending = message; if (first) requestAnimationFrame(drawPending); return; }
  now.pending = message; drawPending();
}
function drawPending() {
  const newest = now.pending;
  now.pending = null;
  if (!newest || now.mode !== "live" || now.paused) { now.held = true; return; }
  draw(newest);
  feed.credit(); charts.gap();
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
  document.title = `${alarms.loud.length ? "⚠ " : ""}${now.run ? `${now.run} · emstream` : "emstream"}`;
  warn(d, now.message?.header);
}
function onStatus(d) {
  now.daemon = d; now.current = d.run;
  alarms.show(d.alarms); daemon(d, now.message?.header);
  describe();
}

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
  now.mode = "look"; now.target = Math.max(0, index); now.wish = [run, now.target]; now.pending = null; now.wished = performance.now();
  describe();
  if (now.fetching) return;
  now.fetching = true;
  try {
    while (now.wish) {
      const [name, i] = now.wish; now.wish = null;
      const over = $("over").value ? `?over=${encodeURIComponent($("over").value)}` : "";
      const answer = await fetch(`/api/runs/${encodeURIComponent(name)}/frame/${i}${over}`);
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
  lookAt(now.run, Math.max(0, Math.min(now.frames - 1, (now.fetching ? now.target : now.message.header.frame) + by))); // from what was asked for last
}

function lookHere(frame) { if (now.shelf && now.run) { stop(); lookAt(now.run, Math.min(now.frames - 1, frame)); } }

// ---- runs
async function loadLabels(run) { // other versions that can be laid over
  if (!now.shelf) return;
  const select = $("over"), chosen = select.value;
  let names = [];
  try { const answer = await fetch(`/api/runs/${encodeURIComponent(run)}/labels`); if (answer.ok) names = (await answer.json()).labels.slice(1); } catch { /* the link's pill says it */ }
  if (names.join() === now.labels) return;
  now.labels = names.join();
  select.replaceChildren(new Option("no overlay", ""), ...names.map((name) => new Option(`over: ${name}`, name)));
  select.value = names.includes(chosen) ? chosen : ""; select.hidden = !names.length;
}
function nextLabels() { const s = $("over"); if (s.options.length > 1) { s.selectedIndex = (s.selectedIndex + 1) % s.options.length; s.onchange(); } }
async function loadRuns() {
  const answer = await fetch("/api/runs");
  if (!answer.ok) return;
  const { runs, current, live, shelf } = await answer.json();
  now.current = current; now.shelf = shelf;
  now.runs = runs.map((r) => ({ ...r, following: live.includes(r.name) }));
  if (now.run) loadLabels(now.run);
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
  const s = t === null || t === undefined || curves.start === null ? null : Math.max(0, t - curves.start);
  return s === null ? "" : s < 60 ? `${s.toFixed(s < 10 ? 2 : 1)} s` : span(s);
};
const since = (t) => (clock(t) ? ` · ${clock(t)}` : "");
const when = (e) => [digits(e.frame, 12), clock(e.time_s)];
const inspector = new Inspector({ stage, charts, when, elapsed: since, jump, live: () => now.mode === "live", stored: () => Boolean(now.shelf), start: () => curves.start });
const alarms = new Alarms(), line = new LineView({ stage, elapsed: clock, pick: lookHere });
charts.pick = lookHere; alarms.jump = (run, frame) => { if (run === now.run) lookHere(frame); };
const happenings = new Happenings({ list: $("event-list"), empty: $("no-events"), heads: $("event-heads"), count: $("event-count"), when, onPick: jump, onNew: (events) => inspector.add(events) });
function jump(e) { // live: its particle; looking back: there, while what goes can still be seen
  if (now.mode === "look") { stop(); lookAt(now.run, e.frame - (["dissolution", "detachment"].includes(e.kind) ? 1 : 0)); }
  inspector.track(e.track);
}
function tab(name) {
  const wanted = document.querySelector(`[role=tab][aria-controls="${name}"]`);
  for (const each of wanted.closest("[role=tablist]").children) each.setAttribute("aria-selected", String(each === wanted));
  line.open(isOpen("line")); now.retheme = true; soon();
}
const isOpen = (name) => document.querySelector(`[role=tab][aria-controls="${name}"]`)?.getAttribute("aria-selected") !== "false";
function colour(by = COLOURS[(COLOURS.indexOf(stage.colour) + 1) % COLOURS.length]) {
  stage.colour = by; stage.lay(); now.dirty = true;
  for (const name of COLOURS) $(`by-${name}`).setAttribute("aria-pressed", String(name === by));
  remembered("colour", by);
}
stage.picked = (label) => inspector.label(label);
inspector.onSelect = (some) => { tab(some ? "particle" : "chart-sizes"); soon(); };
for (const each of document.querySelectorAll("[role=tab]")) each.onclick = () => tab(each.getAttribute("aria-controls"));
for (const name of COLOURS) $(`by-${name}`).onclick = () => colour(name);
$("particle-close").onclick = () => inspector.deselect();
if (COLOURS.includes(remembered("colour"))) colour(remembered("colour"));
$("over").onchange = () => { $("over").blur(); if (now.mode === "look") lookHere(now.message.header.frame); else if ($("over").value) lookHere(now.frames - 1); };

// ---- charts: at most four times a second, only what changed
let timer = 0;
function soon() { clearTimeout(timer); timer = setTimeout(refresh, 0); }
async function refresh() {
  timer = setTimeout(refresh, now.mode === "live" ? 1000 : 500);
  if (now.wish || performance.now() - now.wished < CALM_MS) return; // charts wait for the hand to rest
  if (document.hidden || !now.message || (now.paused && now.mode === "live" && !now.retheme)) return;
  const { header } = now.message, nm = header.pixel_size_nm ? Math.sqrt(header.pixel_size_nm[0] * header.pixel_size_nm[1]) : null;
  if ((now.dirty || now.retheme) && isOpen("chart-sizes")) charts.sizes(header.sizes.diameters, header.sizes.unit, stage.colour === "size" ? now.range ?? [0, 1] : null);
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
      const here = now.mode === "look" ? { frame: header.frame, time_s: header.time_s } : null, moved = here?.frame !== now.here;
      now.here = here?.frame;
      if (changed || now.retheme || moved) charts.overTime(curves, nm, { events: happenings.events, here, open: isOpen });
      if (isOpen("chart-evolution") && (now.retheme || (changed && performance.now() - (now.evolved ?? 0) > 3000))) await evolve(header.run, nm);
    }
  } catch { /* the link's pill says it */ }
  now.dirty = now.retheme = false;
  elapsed();
}

async function evolve(run, nm) {
  now.evolved = performance.now();
  const answer = await fetch(`/api/distribution?run=${encodeURIComponent(run)}`);
  if (answer.ok && run === now.run) charts.evolution(await answer.json(), nm, curves.start);
}

// ---- hands
function theme() {
  const dark = document.documentElement.dataset.theme !== "dark";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  remembered("theme", dark ? "dark" : "light");
  now.retheme = true; soon();
}
function whole() { if (document.fullscreenElement) document.exitFullscreen(); else document.documentElement.requestFullscreen?.().catch(() => {}); }
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
  if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]") || e.target.closest?.("select, input:not(#scrub)")) return;
  const keys = { " ": pause, o: outlines, d: theme, l: goLive, f: () => stage.fit(), r: () => openRuns(), "?": () => $("keys").showModal(), Escape: () => { if ($("runs").classList.contains("open")) openRuns(false); else inspector.deselect(); },
    a: () => alarms.open(), k: () => { if (isOpen("line") && !stage.drawing) line.draw(true); else tab(isOpen("line") ? "chart-drift" : "line"); }, v: nextLabels, w: whole,
    Home: () => lookHere(0), End: () => (canGoLive() ? goLive() : lookHere(now.frames - 1)), PageUp: () => step(-Math.max(1, Math.round(now.frames / 10))), PageDown: () => step(Math.max(1, Math.round(now.frames / 10))),
    c: () => colour(), e: () => tab("events"), n: () => inspector.next(1), N: () => inspector.next(-1),
    ArrowLeft: () => step(e.shiftKey ? -10 : -1), ArrowRight: () => step(e.shiftKey ? 10 : 1) };
  if (!keys[e.key] || (e.key === " " && e.target.closest?.("button"))) return; // a button in focus is pressed
  e.preventDefault(); keys[e.key]();
});
addEventListener("resize", () => { now.retheme = true; });

const feed = new Feed({ onFrame, onStatus, onLink: (linked, why) => {
  now.linked = linked; now.why = why; describe();
  if (linked) { curves.clear(); happenings.clear(); loadRuns(); } else if (!why) knock();
} });
async function knock() { // a daemon that began again may want its new token
  try { if ((await fetch("/api/status")).status === 401) { now.why = "Needs the new token: open the address that emstream printed"; describe(); } } catch { /* not there yet */ }
}
setInterval(() => { if (!document.hidden) loadRuns().catch(() => {}); }, 5000);
soon();
export { now, curves, elapsedUnit };
