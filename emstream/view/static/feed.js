// The wire: one WebSocket that sends the newest frame each time the page has drawn the one before.

// A binary message (see wire.py) as {header, pixels, starts, particle, points}.
export function unpack(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0, false) !== 0x454d5331) throw new Error("not an emstream message");
  const length = view.getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  let at = 8 + length;
  const take = (type, n) => { const part = new type(buffer, at, n); at += part.byteLength; return part; };
  const outlines = ({ polygons, points }) => ({ starts: take(Int32Array, polygons + 1), particle: take(Int32Array, polygons), points: take(Uint16Array, 2 * points) });
  const lines = header.outlines_frame === null ? null : outlines(header), over = header.over ? outlines(header.over) : null;
  return { header, lines, over, pixels: take(Uint8Array, header.w * header.h) };
}

// onFrame(message), onStatus(daemon), onLink(connected). credit() asks for the next frame, look(run) for another run.
export class Feed {
  constructor({ onFrame, onStatus, onLink }) {
    Object.assign(this, { onFrame, onStatus, onLink, run: null, wait: 500, wanted: true });
    this.connect();
  }
  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/ws`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => { this.wait = 500; this.onLink(true); this.send({ run: this.run, ...(this.wanted ? { credit: 1 } : {}) }); };
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") { this.onStatus(JSON.parse(data)); return; }
      this.wanted = false;
      this.onFrame(unpack(data));
    };
    this.socket.onclose = ({ code, reason }) => {
      this.onLink(false, code === 1013 ? reason : "");
      this.wanted = true;
      setTimeout(() => this.connect(), this.wait);
      this.wait = Math.min(8000, this.wait * 1.6);
    };
  }
  send(message) { if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message)); }
  credit() { this.wanted = true; this.send({ credit: 1 }); }
  look(run) { this.run = run; this.wanted = true; this.send({ run, credit: 1 }); }
}
