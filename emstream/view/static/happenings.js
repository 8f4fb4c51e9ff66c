// What happened in the run: the last events, newest first; choosing one goes there.
import { trackColour } from "./colours.js";

const MOST = 50;
export const ENDS = { dissolution: "Dissolved", detachment: "Detached" };
// An event's tracks in order: what was → what is.
export function tracksOf({ kind, track, other_track: other }) {
  if (other < 0) return [track];
  return kind === "coalescence" ? [other, track] : [track, other];
}

export function row(event, when, onClick) {
  const item = document.createElement("li"), button = document.createElement("button"), who = document.createElement("span");
  const kind = Object.assign(document.createElement("b"), { textContent: event.kind[0].toUpperCase() + event.kind.slice(1) });
  who.className = "tracks";
  if (event.text) who.textContent = event.text; // what happened to the run: another model makes the labels
  else tracksOf(event).forEach((track, i) => {
    const dot = document.createElement("i");
    dot.className = "dot"; dot.style.background = trackColour(track);
    if (i) who.append(" → ");
    who.append(dot, `#${track}`);
  });
  const [frame, time] = when(event).map((text) => Object.assign(document.createElement("small"), { textContent: text }));
  button.append(kind, who, frame, time); button.setAttribute("aria-label", button.title = `${event.text ? `${event.kind} ${event.text}` : `${event.kind} of ${tracksOf(event).map((t) => `#${t}`).join(" → ")}`} in frame ${event.frame}`); button.onclick = () => onClick(event);
  item.append(button);
  return item;
}

export class Happenings {
  // when(event) → ["12", "0:03"], frame and time; onPick(event); onNew(events) are those that were not known before
  constructor({ list, empty, heads, count, when, onPick, onNew }) { Object.assign(this, { list, empty, heads, count, when, onPick, onNew }); this.clear(); }
  clear() { this.run = null; this.version = 0; this.frames = -1; this.events = []; this.draw(); }

  // Live runs are asked again and again for what is new, stored ones when they have grown.
  async refresh(run, frames, following) {
    if (this.asking || (run === this.run && !following && frames === this.frames)) return;
    if (run !== this.run) this.clear();
    this.asking = true;
    try {
      const answer = await fetch(`/api/events?run=${encodeURIComponent(run)}&since=${this.version}`);
      if (!answer.ok) return;
      const { version, events } = await answer.json();
      const anew = version < this.version || (!version && !following); // the daemon began again; a stored run tells all
      if (this.run === run && !anew && !events.length) return;
      Object.assign(this, { run, version, frames });
      this.events = anew ? events : [...this.events, ...events].slice(-MOST);
      this.draw(); this.onNew(events);
    } finally { this.asking = false; }
  }

  draw() {
    const focused = [...this.list.children].findIndex((e) => e.contains(document.activeElement));
    this.list.replaceChildren(...[...this.events].reverse().map((e) => row(e, this.when, this.onPick)));
    this.list.children[focused]?.querySelector("button").focus({ preventScroll: true });
    this.empty.hidden = this.events.length > 0; this.heads.hidden = !this.empty.hidden;
    this.count.textContent = this.events.length ? (this.events.length >= MOST ? `last ${MOST}` : String(this.events.length)) : "";
  }
}
