// The kymograph: brightness along a line of the picture, from the first frame to the newest. The line is drawn on the picture.
import { $, digits, inUnits } from "./numbers.js";

const AGAIN_MS = 3000, SOON_MS = 60;

export class LineView {
  // stage; elapsed(time_s) → words; pick(frame) looks there
  constructor({ stage, elapsed, pick }) {
    Object.assign(this, { stage, elapsed, pick, ends: [0.5, 0.02, 0.5, 0.98], told: null, shown: false });
    this.canvas = $("kymograph");
    $("line-draw").onclick = () => this.draw(!stage.drawing);
    this.canvas.onclick = (e) => {
      const frame = this.told?.frame[Math.floor(e.offsetX / this.canvas.clientWidth * this.told.w)];
      if (frame !== undefined) this.pick(frame);
    };
    stage.drawn = ([x0, y0, x1, y1], done) => {
      this.ends = [y0, x0, y1, x1]; this.stage.line = [x0, y0, x1, y1];
      if (done) { this.draw(false); this.told = null; this.refresh(); }
    };
  }
  // Whether the tab is open: only then the line is on the picture, and frames are read for it.
  open(shown) {
    this.shown = shown;
    const [y0, x0, y1, x1] = this.ends;
    this.stage.line = shown ? [x0, y0, x1, y1] : null;
    if (!shown) this.draw(false);
    this.stage.lay(); this.refresh();
  }
  draw(on) {
    this.stage.drawing = on; $("line-draw").setAttribute("aria-pressed", String(on)); $("view").classList.toggle("drawing", on);
    $("line-hint").textContent = on ? "Drag across the picture" : "";
  }
  clear(run) { this.told = null; this.run = run; this.paint(); this.refresh(); }

  async refresh() {
    const run = this.run;
    clearTimeout(this.timer);
    if (!this.shown || !run || document.hidden) return;
    if (this.asking) { this.more = true; return; }
    this.asking = true; this.more = false;
    const ends = this.ends.join();
    let wait = AGAIN_MS;
    try {
      const [y0, x0, y1, x1] = this.ends.map((v) => Math.max(0, Math.min(1, v)).toFixed(4));
      const answer = await fetch(`/api/runs/${encodeURIComponent(run)}/line?from=${y0},${x0}&to=${y1},${x1}`);
      if (answer.ok && run === this.run && ends === this.ends.join()) {
        this.told = await answer.json();
        this.paint();
        if (!this.told.complete) wait = SOON_MS;
      }
    } catch { /* the link's pill says it */ } finally { this.asking = false; }
    this.timer = setTimeout(() => this.refresh(), this.more ? 0 : wait);
  }

  paint() {
    const told = this.told, pen = this.canvas.getContext("2d");
    if (!told || !told.w) { this.canvas.width = this.canvas.height = 1; $("line-length").textContent = $("line-from").textContent = $("line-to").textContent = ""; return; }
    const { w, h } = told, grey = Uint8Array.from(atob(told.pixels), (c) => c.charCodeAt(0));
    this.canvas.width = w; this.canvas.height = h;
    const image = new ImageData(w, h), out = new Uint32Array(image.data.buffer);
    for (let i = 0; i < grey.length; i++) { const v = grey[i]; out[i] = v ? 0xff000000 | (v << 16) | (v << 8) | v : 0; }
    pen.putImageData(image, 0, 0);
    this.canvas.dataset.complete = String(told.complete);
    const [n, unit] = told.unit === "nm" ? inUnits(told.length) : [told.length, told.unit];
    $("line-length").textContent = `${digits(n)} ${unit}`;
    $("line-from").textContent = this.elapsed(told.time_s[0]) || `frame ${told.frame[0]}`;
    $("line-to").textContent = this.elapsed(told.time_s.at(-1)) || `frame ${told.frame.at(-1)}`;
    this.mark(this.here);
  }
  // Where the shown frame is.
  mark(frame) {
    this.here = frame;
    const told = this.told, i = told?.frame.findLastIndex((f) => f <= frame) ?? -1;
    $("line-here").hidden = i < 0;
    if (i >= 0) $("line-here").style.left = `${(i + 0.5) / told.w * 100}%`;
  }
}
