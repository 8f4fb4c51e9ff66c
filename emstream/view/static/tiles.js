// The numbers of the shown frame and of the daemon, each where it stands, and what people should be warned of.
import { $, bytes, digits, put, putLength, rate, roughly, withError } from "./numbers.js";

// header: of a frame
export function tiles(header, daemon) {
  const { sizes, density, growth } = header, nm = header.drift_speed_nm_per_s;
  put("particles", header.particles);
  put("density", density ? withError(density.value, density.error) : "", density ? density.unit : "");
  putLength("median", sizes.median, sizes.unit);
  put("mean", sizes.mean === null ? "" : `mean ${withError(sizes.mean, sizes.mean_error)}`, sizes.mean === null ? "" : sizes.unit);
  const [speed, error, unit] = rate(growth?.rate ?? null, growth?.error ?? null, growth?.unit ?? "px/s");
  put("growth", speed === null ? null : withError(speed, error).split(" ± ")[0], unit);
  put("growth-error", speed === null || error === null ? "" : `± ${withError(error, error).split(" ± ")[0]}, ${growth.particles} tracks`);
  put("area", header.area_fraction === null ? null : +(header.area_fraction * 100).toPrecision(3), "%");
  putLength("speed", nm ?? header.drift_speed_px_per_s, nm === null ? "px" : "nm", "/s");
  put("confidence", header.confidence === null ? null : header.confidence.toFixed(2));
  $("confidence").classList.toggle("low", header.confidence !== null && header.confidence < 0.3);
  $("unit-note").textContent = "pixel size unknown"; $("unit-note").hidden = header.pixel_size_nm !== null;
  if (!daemon?.model) put("model", header.model);
}

// d: what the daemon says of itself
export function daemon(d, header) {
  $("daemon").classList.toggle("stored", d.state === "stored");
  put("fps", +d.fps.toPrecision(3), "frames/s");
  put("lag", d.lag_s < 1 ? Math.round(d.lag_s * 1000) : +d.lag_s.toPrecision(3), d.lag_s < 1 ? "ms" : "s");
  put("backlog", d.backlog, d.backlog === 1 ? "frame" : "frames");
  put("committed", digits(d.committed, 12), "frames");
  put("quarantined", d.quarantined, d.quarantined === 1 ? "file" : "files");
  $("quarantined").classList.toggle("low", d.quarantined > 0);
  if (d.free_bytes === null) put("free", null); else { const [n, u] = bytes(d.free_bytes); put("free", n, d.free_s && d.free_s < 864000 ? `${u}, ${roughly(d.free_s)}` : u); }
  put("device", d.device);
  const agreement = d.agreement ?? header?.agreement ?? null;
  if (d.model) put("model", d.model, agreement === null ? "" : `agreement ${agreement.toFixed(2)}`);
  $("model").title = d.model_sha256 ? `sha256 ${d.model_sha256}` : ""; $("model").classList.toggle("low", d.model_fits === false);
}

export function warn(d, header) {
  const list = [...(d?.warnings ?? [])];
  if (d && !d.watch_up) list.push("No hints from the file system: new frames are found by scanning");
  if (d?.lost) list.push(`${d.lost} frames were lost`);
  if (header?.status.includes("lost_lock")) list.push("Alignment began a new anchor here");
  if (header?.status.includes("suspect")) list.push("Alignment may follow a fixed pattern or moving particles");
  if (d?.model_fits === false) { if (!list.some((w) => w.includes("model"))) list.push("The model does not seem to fit these frames; emstream train makes one that does"); }
  else if (header && header.agreement !== null && header.agreement < 0.5) list.push(`Segmentation is uncertain: agreement ${header.agreement.toFixed(2)}`);
  const text = list.join("\n");
  if ($("warnings").dataset.shown === text) return;
  $("warnings").dataset.shown = text; $("warnings").hidden = !list.length;
  $("warnings").replaceChildren(...list.map((t) => Object.assign(document.createElement("li"), { textContent: t })));
}
