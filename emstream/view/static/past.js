// What the page has received of each particle since it was opened: bounded, the longest unseen are forgotten first.
export const MOST_TRACKS = 4000, MOST_POINTS = 256;

export class Past {
  constructor() { this.clear(); }
  clear() { this.of = new Map(); this.from = null; this.newest = -1; }
  add({ outlines_frame: frame, outlines_time_s: time, sizes }) {
    if (frame === null || frame <= this.newest || !sizes.tracks) return;
    this.newest = frame; this.from ??= frame;
    sizes.tracks.forEach((track, i) => {
      if (track < 0) return;
      const p = this.of.get(track) ?? { frame: [], time_s: [], diameter: [], seen: 0 };
      this.of.delete(track); this.of.set(track, p); // the newest last
      p.frame.push(frame); p.time_s.push(time); p.diameter.push(sizes.diameters[i]); p.seen++;
      p.last = { area: sizes.areas?.[i] ?? null, y: sizes.y?.[i] ?? null, x: sizes.x?.[i] ?? null, diameter: sizes.diameters[i], unit: sizes.unit };
      if (p.frame.length > MOST_POINTS) for (const key of ["frame", "time_s", "diameter"]) p[key] = p[key].filter((_, j) => j === 0 || j % 2 === p[key].length % 2 ^ 1);
    });
    for (const track of this.of.keys()) { if (this.of.size <= MOST_TRACKS) break; this.of.delete(track); }
  }
}
