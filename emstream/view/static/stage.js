// The picture: the frame on one canvas pixel for pixel, the outlines on another at the screen's own resolution.
import { growthColour, sizeColour, trackColour } from "./colours.js";
import { inUnits, niceLength, rate } from "./numbers.js";

const SHADES = 13, NEAR_PX = 7, STILL_PX = 5; // a click may miss an outline by so much, and a hand may move so much

export class Stage {
  constructor(root) {
    this.root = root;
    this.picture = root.querySelector("#picture"); this.lines = root.querySelector("#lines");
    this.scale = root.querySelector("#scale"); this.tip = root.querySelector("#tip");
    this.outlined = true; this.zoom = 1; this.centre = [0.5, 0.5]; this.range = [0, 1]; this.message = null;
    this.colour = "track"; this.fastest = 1; // or size, growth; the rate at the ends of the colours
    this.chosen = null; // label of the particle that is emphasised
    this.line = null; this.drawing = false; // [x0, y0, x1, y1] as shares of the frame; whether a drag draws it
    new ResizeObserver(() => this.lay()).observe(root);
    this.pointers = new Map();
    root.addEventListener("wheel", (e) => { e.preventDefault(); this.zoomAt(e.offsetX, e.offsetY, Math.exp(-e.deltaY * 0.0016)); }, { passive: false });
    root.addEventListener("pointerdown", (e) => {
      root.setPointerCapture(e.pointerId); this.pointers.set(e.pointerId, [e.offsetX, e.offsetY]);
      this.press = this.pointers.size === 1 && e.button === 0 ? [e.offsetX, e.offsetY] : null;
      if (this.drawing && this.press && this.message) { this.from = this.share(...this.press); this.press = null; }
    });
    root.addEventListener("pointerup", (e) => {
      if (this.from) {
        const to = this.share(e.offsetX, e.offsetY), long = Math.hypot(to[0] - this.from[0], to[1] - this.from[1]) > 0.02, from = this.from;
        this.from = null;
        if (long) { this.drawn([...from, ...to], true); this.lay(); }
        return;
      }
      const still = this.press && Math.hypot(e.offsetX - this.press[0], e.offsetY - this.press[1]) < STILL_PX;
      if (still && this.message) this.picked?.(this.at(e.offsetX, e.offsetY));
      this.press = null;
    });
    for (const end of ["pointerup", "pointercancel"]) root.addEventListener(end, (e) => { this.pointers.delete(e.pointerId); });
    root.addEventListener("pointercancel", () => { this.from = null; });
    root.addEventListener("pointermove", (e) => this.moved(e));
    root.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    root.addEventListener("dblclick", () => this.fit());
  }

  // Draw a message; `range` are the sizes that get the two ends of the colours.
  show(message, range) {
    const { header, pixels } = message, { w, h } = header;
    this.message = message; this.range = range;
    if (this.picture.width !== w || this.picture.height !== h) { this.picture.width = w; this.picture.height = h; this.image = null; }
    const pen = this.picture.getContext("2d", { willReadFrequently: false });
    this.image ??= new ImageData(w, h);
    const out = new Uint32Array(this.image.data.buffer);
    for (let i = 0; i < pixels.length; i++) { const v = pixels[i]; out[i] = 0xff000000 | (v << 16) | (v << 8) | v; }
    this.hideUncovered(out, header);
    pen.putImageData(this.image, 0, 0);
    this.root.classList.add("has");
    this.lay();
  }

  // What the frame does not cover is transparent: it is not black, it is not there.
  hideUncovered(out, { valid, shape, w, h }) {
    if (!valid) return;
    const [y0, y1] = [Math.ceil(valid[0] * h / shape[0]), Math.floor(valid[1] * h / shape[0])];
    const [x0, x1] = [Math.ceil(valid[2] * w / shape[1]), Math.floor(valid[3] * w / shape[1])];
    for (let y = 0; y < h; y++) {
      if (y < y0 || y >= y1) { out.fill(0, y * w, (y + 1) * w); continue; }
      out.fill(0, y * w, y * w + x0); out.fill(0, y * w + x1, (y + 1) * w);
    }
  }

  // Where the frame lies in the view: [left, top, css px for one px of the frame].
  place() {
    const [fy, fx] = this.message.header.shape, { clientWidth: cw, clientHeight: ch } = this.root;
    const k = Math.min(cw / fx, ch / fy) * this.zoom;
    const free = (c, size, frame) => (frame <= size ? (size - frame) / 2 : Math.max(size - frame, Math.min(0, size / 2 - c * frame)));
    return [free(this.centre[0], cw, fx * k), free(this.centre[1], ch, fy * k), k];
  }

  lay() {
    if (!this.message) return;
    const { header } = this.message, [left, top, k] = this.place(), s = k * header.shape[1] / header.w;
    this.picture.style.transform = `translate(${left}px, ${top}px) scale(${s}, ${k * header.shape[0] / header.h})`;
    this.picture.style.imageRendering = s > 6 ? "pixelated" : "auto";
    this.root.classList.toggle("close", this.zoom > 1);
    this.drawLines(left, top, k);
    this.drawScale(k, header.pixel_size_nm);
  }

  drawLines(left, top, k) {
    const { lines, header } = this.message, dpr = window.devicePixelRatio || 1;
    const w = Math.round(this.root.clientWidth * dpr), h = Math.round(this.root.clientHeight * dpr);
    if (this.lines.width !== w || this.lines.height !== h) { this.lines.width = w; this.lines.height = h; }
    const pen = this.lines.getContext("2d");
    pen.clearRect(0, 0, w, h);
    this.drawLine(pen, left, top, k, dpr);
    if (!lines || !this.outlined) return;
    const rows = this.rows(header), { diameters, tracks, growth } = header.sizes, paths = new Map();
    const [ax, ay] = [k * header.shape[1] / 65536 * dpr, k * header.shape[0] / 65536 * dpr], [bx, by] = [left * dpr, top * dpr];
    const [low, high] = this.range;
    const chosen = new Path2D();
    let emphasis = null;
    for (let i = 0; i < lines.particle.length; i++) {
      const row = rows.get(lines.particle[i]), size = diameters[row] ?? low;
      const colour = this.colour === "track" ? trackColour(tracks?.[row] ?? -1)
        : this.colour === "growth" ? growthColour(stepped(growth?.[row] ?? null, -this.fastest, this.fastest), this.fastest)
        : sizeColour(stepped(size, low, high), this.range);
      if (!paths.has(colour)) paths.set(colour, new Path2D());
      if (lines.particle[i] === this.chosen) { emphasis = colour; this.trace(chosen, lines, i, ax, ay, bx, by); }
      else this.trace(paths.get(colour), lines, i, ax, ay, bx, by);
    }
    const width = Math.max(1.4, Math.min(4, this.root.clientWidth / 560)) * dpr;
    pen.lineJoin = "round";
    pen.strokeStyle = "rgba(0, 0, 0, .42)"; pen.lineWidth = width + 1.6 * dpr;
    pen.globalAlpha = emphasis ? 0.8 : 1; // the others step back
    for (const path of paths.values()) pen.stroke(path);
    pen.lineWidth = width;
    for (const [colour, path] of paths) { pen.strokeStyle = colour; pen.stroke(path); }
    pen.globalAlpha = 1;
    this.drawOver(pen, width, ax, ay, bx, by);
    if (!emphasis) return;
    for (const [style, more] of [["rgba(0, 0, 0, .7)", 6.4], ["#fff", 4], [emphasis, 1]]) {
      pen.strokeStyle = style; pen.lineWidth = width + more * dpr; pen.stroke(chosen);
    }
  }

  // Another version of the labels: a dashed line that no colour of ours has.
  drawOver(pen, width, ax, ay, bx, by) {
    const { over } = this.message;
    if (!over) return;
    const path = new Path2D();
    for (let i = 0; i < over.particle.length; i++) this.trace(path, over, i, ax, ay, bx, by);
    pen.setLineDash([]); pen.strokeStyle = "rgba(0, 0, 0, .6)"; pen.lineWidth = width * 2.4; pen.stroke(path);
    pen.setLineDash([width * 3, width * 2]); pen.strokeStyle = "#fff"; pen.lineWidth = width * 1.3; pen.stroke(path);
    pen.setLineDash([]);
  }
  // The line of the kymograph.
  drawLine(pen, left, top, k, dpr) {
    if (!this.line) return;
    const [fy, fx] = this.message.header.shape, [x0, y0, x1, y1] = this.line.map((v, i) => (i % 2 ? top + v * fy * k : left + v * fx * k) * dpr);
    for (const [style, w] of [["rgba(0, 0, 0, .65)", 4.5], ["#ffd166", 2]]) {
      pen.strokeStyle = pen.fillStyle = style; pen.lineWidth = w * dpr; pen.lineCap = "round";
      pen.beginPath(); pen.moveTo(x0, y0); pen.lineTo(x1, y1); pen.stroke();
      pen.beginPath(); pen.arc(x0, y0, (w + 2) * dpr, 0, 7); pen.fill();
    }
  }
  // A place of the view as a share of the frame, inside it.
  share(x, y) {
    const [left, top, k] = this.place(), [fy, fx] = this.message.header.shape, inside = (v) => Math.max(0, Math.min(1, v));
    return [inside((x - left) / k / fx), inside((y - top) / k / fy)];
  }

  // A closed curve through the middles of the polygon's sides: no steps of pixels.
  trace(path, { points, starts }, i, ax, ay, bx, by) {
    const a = starts[i], n = starts[i + 1] - a;
    if (n < 2) return;
    const x = (j) => points[2 * (a + (j % n))] * ax + bx, y = (j) => points[2 * (a + (j % n)) + 1] * ay + by;
    path.moveTo((x(0) + x(n - 1)) / 2, (y(0) + y(n - 1)) / 2);
    for (let j = 0; j < n; j++) path.quadraticCurveTo(x(j), y(j), (x(j) + x(j + 1)) / 2, (y(j) + y(j + 1)) / 2);
    path.closePath();
  }

  // label → its row in the columns of header.sizes
  rows(header) {
    if (this.rowOf?.of !== header) {
      this.rowOf = new Map(header.sizes.diameters.map((_, i) => [header.sizes.labels?.[i] ?? i + 1, i]));
      this.rowOf.of = header;
    }
    return this.rowOf;
  }

  // The label at a place of the view: the particle around it, else the one whose outline is nearest; null = background.
  at(x, y) {
    const { lines, header } = this.message, [left, top, k] = this.place(), [fy, fx] = header.shape;
    if (!lines || !this.outlined) return null;
    const px = (x - left) / k / fx * 65536, py = (y - top) / k / fy * 65536;
    let best = null, least = NEAR_PX ** 2;
    for (let i = 0; i < lines.particle.length; i++) {
      if (within(lines, i, px, py)) return lines.particle[i];
      for (let j = lines.starts[i]; j < lines.starts[i + 1]; j++) {
        const d = ((lines.points[2 * j] - px) / 65536 * fx * k) ** 2 + ((lines.points[2 * j + 1] - py) / 65536 * fy * k) ** 2;
        if (d < least) { least = d; best = lines.particle[i]; }
      }
    }
    return best;
  }

  drawScale(k, pixelSize) {
    const perPx = pixelSize ? pixelSize[1] : 1, room = Math.min(this.root.clientWidth * 0.22, 260);
    const length = niceLength(room / k * perPx), [n, unit] = pixelSize ? inUnits(length) : [length, "px"];
    this.scale.hidden = false;
    this.scale.querySelector("i").style.width = `${length / perPx * k}px`;
    this.scale.querySelector("b").textContent = `${+n.toPrecision(3)} ${unit}`;
  }

  zoomAt(x, y, by) {
    if (!this.message) return;
    const [left, top, k] = this.place(), [fy, fx] = this.message.header.shape;
    const at = [(x - left) / k, (y - top) / k], before = this.zoom;
    this.zoom = Math.max(1, Math.min(24, this.zoom * by));
    const k2 = k * this.zoom / before, { clientWidth: cw, clientHeight: ch } = this.root;
    this.centre = [(at[0] + (cw / 2 - x) / k2) / fx, (at[1] + (ch / 2 - y) / k2) / fy];
    this.changed?.(); this.lay();
  }
  fit() { this.zoom = 1; this.centre = [0.5, 0.5]; this.changed?.(); this.lay(); }

  moved(e) {
    if (!this.message) return;
    if (this.from) { this.drawn([...this.from, ...this.share(e.offsetX, e.offsetY)], false); this.lay(); return; }
    const before = this.pointers.get(e.pointerId);
    if (!before) { this.hint(e.offsetX, e.offsetY); return; }
    const here = [e.offsetX, e.offsetY], others = [...this.pointers].filter(([id]) => id !== e.pointerId);
    this.pointers.set(e.pointerId, here);
    if (others.length) { // two fingers
      const o = others[0][1], d = (p) => Math.hypot(p[0] - o[0], p[1] - o[1]);
      this.zoomAt((here[0] + o[0]) / 2, (here[1] + o[1]) / 2, d(here) / Math.max(1, d(before)));
      return;
    }
    const [, , k] = this.place(), [fy, fx] = this.message.header.shape;
    const half = [this.root.clientWidth / 2 / k / fx, this.root.clientHeight / 2 / k / fy];
    const inside = (c, r) => (r >= 0.5 ? 0.5 : Math.max(r, Math.min(1 - r, c)));
    this.centre = [inside(this.centre[0] - (here[0] - before[0]) / k / fx, half[0]), inside(this.centre[1] - (here[1] - before[1]) / k / fy, half[1])];
    this.tip.hidden = true; this.lay();
  }

  // The size of the particle under the pointer.
  hint(x, y) {
    const { header } = this.message, row = this.rows(header).get(this.at(x, y)), size = header.sizes.diameters[row];
    this.tip.hidden = size === undefined;
    this.root.classList.toggle("over", size !== undefined);
    if (size === undefined) return;
    const track = header.sizes.tracks?.[row] ?? -1;
    const growth = header.sizes.growth?.[row] ?? null, faster = growth === null ? "" : `  dR/dt ${rate(growth, null, `${header.sizes.unit}/s`).filter((v) => v !== null).map((v) => (typeof v === "number" ? +v.toPrecision(2) : v)).join(" ")}`;
    this.tip.textContent = `${track < 0 ? "" : `#${track}  `}⌀ ${+size.toPrecision(3)} ${header.sizes.unit}${faster}`;
    this.tip.style.left = `${x}px`; this.tip.style.top = `${y}px`;
  }
}

// The middle of the step in which a value lies: few colours, so that outlines are drawn in few strokes.
function stepped(value, low, high) {
  if (value === null) return null;
  const step = Math.max(0, Math.min(SHADES - 1, Math.floor((value - low) / Math.max(1e-12, high - low) * SHADES)));
  return low + (step + 0.5) / SHADES * (high - low);
}

function within({ points, starts }, i, x, y) {
  let inside = false;
  for (let a = starts[i], b = starts[i + 1], j = a, l = b - 1; j < b; l = j++) {
    const [xj, yj, xl, yl] = [points[2 * j], points[2 * j + 1], points[2 * l], points[2 * l + 1]];
    if ((yj > y) !== (yl > y) && x < (xl - xj) * (y - yj) / (yl - yj) + xj) inside = !inside;
  }
  return inside;
}
