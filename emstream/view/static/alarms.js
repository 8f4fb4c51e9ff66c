// Alarms: the ones that are on in a bar above everything, all of them in a dialog where they are set and taken away.
import { $, digits, roughly } from "./numbers.js";

const element = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
const ask = (method, path, body) => fetch(path, { method, headers: { "content-type": "application/json" }, body: body && JSON.stringify(body) });
const clock = (s) => new Date(s * 1000).toLocaleTimeString("sv");
function amount(value, unit) { return value === null ? "" : `${digits(value)}${unit ? ` ${unit}` : ""}`; }

export class Alarms {
  constructor() {
    this.all = [];
    $("bell").onclick = () => this.open();
    $("alarm-form").onsubmit = (e) => { e.preventDefault(); this.add($("alarm-rule").value); };
    for (const each of document.querySelectorAll("#alarm-examples button")) each.onclick = () => { $("alarm-rule").value = each.textContent; $("alarm-rule").focus(); };
    $("alarm-close").onclick = () => $("alarms").close();
    $("alarms-seen").onclick = () => this.seen();
  }
  get loud() { return this.all.filter((a) => a.active); }

  // What the daemon said of them just now; null: nobody watches here.
  show(all) {
    $("bell").hidden = all === null;
    this.all = all ?? [];
    const key = JSON.stringify(this.all.map((a) => [a.name, a.rule, a.active, a.unseen, a.fired, a.active ? a.value : 0]));
    if (key === this.key) return;
    this.key = key;
    const told = this.all.filter((a) => a.active || a.unseen);
    $("alarm-bar").hidden = !told.length;
    $("alarm-list-now").replaceChildren(...told.map((a) => this.banner(a)));
    $("alarms-seen").hidden = !told.some((a) => a.unseen);
    $("bell").dataset.kind = this.loud.length ? "loud" : told.length ? "unseen" : "";
    $("bell-count").textContent = told.length || "";
    document.documentElement.dataset.alarm = this.loud.map((a) => a.name).join(" | ");
    this.draw();
  }
  banner(a) {
    const item = element("li"), name = element("b", a.name);
    item.dataset.kind = a.active ? "loud" : "unseen";
    const value = a.active ? amount(a.value, a.unit) : a.peak === null ? "" : `it was ${amount(a.peak, a.unit)}`;
    const when = a.fired_at === null ? "" : `since ${clock(a.fired_at)}`;
    const over = a.ended_at ? `${clock(a.fired_at)}, over after ${roughly(a.ended_at - a.fired_at)}` : "over";
    item.append(name, element("span", [a.name === a.rule ? "" : a.rule, value, a.active ? when : over, a.frame === null ? "" : `frame ${digits(a.frame, 12)}`].filter(Boolean).join(" · ")));
    if (a.frame !== null && this.jump) { item.classList.add("leads"); item.onclick = () => this.jump(a.run, a.frame); }
    return item;
  }
  draw() {
    $("alarm-list").replaceChildren(...this.all.map((a) => {
      const row = element("li"), what = element("div"), side = element("div", "", "side"), away = element("button", "", "icon");
      row.dataset.kind = a.active ? "loud" : a.unseen ? "unseen" : "";
      const history = a.fired ? `${a.active ? "on since" : "last"} ${clock(a.fired_at)}, ${a.fired}×` : "not yet";
      what.append(element("b", a.name), element("small", a.name === a.rule ? "" : a.rule));
      side.append(element("span", amount(a.value, a.unit), "now"), element("small", history));
      away.title = a.fixed ? "Stands in the settings" : "Take away"; away.disabled = a.fixed; away.setAttribute("aria-label", `${away.title}: ${a.name}`);
      away.innerHTML = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M4.5 4.5l7 7M11.5 4.5l-7 7"/></svg>';
      away.onclick = () => this.remove(a.name);
      row.append(what, side, away);
      return row;
    }));
    $("no-alarms").hidden = this.all.length > 0;
  }
  open() { if ($("alarms").open) { $("alarms").close(); return; } $("alarms").showModal(); $("alarm-rule").focus(); }

  async refresh() { const answer = await fetch("/api/alarms"); if (answer.ok) this.show((await answer.json()).alarms); }
  say(text) { $("alarm-error").textContent = text; $("alarm-error").hidden = !text; }
  async add(rule) {
    try {
      const answer = await ask("POST", "/api/alarms", { rule }), told = await answer.json();
      this.say(answer.ok ? "" : `${told.error}${told.hint ? ` – ${told.hint}` : ""}`);
      if (answer.ok) { $("alarm-rule").value = ""; await this.refresh(); }
    } catch { this.say("The daemon does not answer"); }
  }
  async remove(name) {
    try { await ask("DELETE", `/api/alarms/${encodeURIComponent(name)}`); await this.refresh(); } catch { this.say("The daemon does not answer"); }
  }
  async seen() { try { await ask("POST", "/api/alarms/seen", {}); await this.refresh(); } catch { /* the link's pill says it */ } }
}
