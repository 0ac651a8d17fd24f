// What the pages do beyond HTML: copy (also without HTTPS), the theme, times that grow older, live parts that wait for
// their reader, the selection of rows, and the keyboard. Everything else works without this file.
"use strict";
const root = document.documentElement;
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const typing = (element) => element?.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select");

function setCookie(name, value) {
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=lax${secure}`;
}

function toggleTheme() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  setCookie("relay-theme", root.dataset.theme);
}

async function copy(button) {
  const text = button.dataset.copy || button.parentElement.querySelector("pre").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "vh";
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  if (button.textContent !== "Copied") {
    const was = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = was; }, 1200);
  }
}

// Times: written as formats.py writes them.
function span(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const s = ms / 1000, whole = Math.round(s);
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (whole < 100) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${String(whole % 60).padStart(2, "0")} s` : ""}`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  const hours = Math.floor(minutes / 60);
  return `${Math.floor(hours / 24)} d${hours % 24 ? ` ${hours % 24} h` : ""}`;
}
function age(ms) {
  const s = ms / 1000;
  if (s < 1) return "now";
  if (s < 100) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return s < 86400 ? span(Math.floor(s / 60) * 60000) : `${Math.floor(s / 86400)} d`;
}
// The server's clock counts: the page says what time it was made at.
const behind = Date.parse(document.body.dataset.now) - Date.now() || 0;
const now = () => Date.now() + behind;
function tick() {
  if (document.hidden) return;
  for (const time of all("time[data-age]")) {
    const text = age(now() - Date.parse(time.dateTime));
    set(time, text === "now" ? text : text + time.dataset.age);
  }
  for (const time of all("time[data-until]")) set(time, span(Math.max(0, Date.parse(time.dateTime) - now())));
  if (live.lost) show();
}
function set(element, text) { if (element.textContent !== text) element.textContent = text; }
setInterval(tick, 1000);

// Live parts: a part waits while its reader is in it, and comes when the reader leaves; the newest one counts.
const live = { paused: false, lost: 0, held: new Map() };
const indicator = document.querySelector("[data-live]");
function show() {
  if (!indicator) return;
  indicator.hidden = false;
  const word = live.paused ? "Paused" : live.lost ? `Reconnecting, data ${age(Date.now() - live.lost)} old` : live.held.size ? "Waiting for you" : "Live";
  set(indicator, word);
  indicator.classList.toggle("paused", word !== "Live");
  indicator.setAttribute("aria-pressed", String(live.paused));
}
function busy(part) {
  const selection = getSelection();
  return part.querySelector(".verb[open]") !== null || typing(document.activeElement) && part.contains(document.activeElement)
    || part.matches("tr:hover, section:has(tr:hover)") || !selection.isCollapsed && selection.containsNode(part, true);
}
function part(message) {
  const id = /^<hx-partial hx-target="#([\w-]+)"/.exec(message)?.[1];
  return id ? document.getElementById(id) : null;
}
addEventListener("htmx:sse:before:message", (event) => {
  const { message } = event.detail;
  if (message.event) return;
  const target = part(message.data);
  if (target && !live.paused && !busy(target)) return;
  event.preventDefault();
  if (target) live.held.set(target.id, message.data);
  show();
});
function release() {
  if (live.paused) return;
  for (const [id, data] of live.held) {
    const target = document.getElementById(id);
    if (target && busy(target)) continue;
    live.held.delete(id);
    if (target) htmx.swap({ sourceElement: document.querySelector("main"), text: data, swap: "none swapEmpty:false" });
  }
  show();
}
setInterval(() => { if (live.held.size) release(); }, 500);
addEventListener("htmx:sse:after:connection", () => { live.lost = 0; show(); });
for (const name of ["htmx:sse:error", "htmx:sse:close"]) {
  addEventListener(name, () => { live.lost ||= Date.now(); show(); });
}
addEventListener("htmx:sse:after:message", () => { live.lost = 0; show(); tick(); });
function pause() { live.paused = !live.paused; release(); show(); }

// Rows: what is ticked is counted in the bar above the table; Shift ticks a range.
let anchor = null;
function ticked(box, range) {
  const boxes = all("tbody input[name=job]");
  if (range && anchor && boxes.includes(anchor)) {
    const [from, to] = [boxes.indexOf(anchor), boxes.indexOf(box)].sort((a, b) => a - b);
    for (const one of boxes.slice(from, to + 1)) one.checked = box.checked;
  }
  anchor = box;
  count();
}
function count() {
  const number = all("tbody input[name=job]:checked").length;
  for (const one of all("[data-selected]")) set(one, String(number));
  for (const bar of all("[data-bulk]")) bar.classList.toggle("none", number === 0);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy], [data-theme-toggle], [data-live], [data-all], [data-none], [data-keys-off], tbody input[name=job]");
  if (!button) return;
  if (button.name === "job") return ticked(button, event.shiftKey);
  if (button.dataset.all !== undefined) {
    for (const box of all("tbody input[name=job]")) box.checked = button.checked;
    return count();
  }
  event.preventDefault();
  if (button.dataset.copy !== undefined) copy(button);
  else if (button.dataset.live !== undefined) pause();
  else if (button.dataset.keysOff !== undefined) {
    setCookie("relay-keys", button.getAttribute("aria-pressed") === "true" ? "on" : "off");
    location.reload();
  }
  else if (button.dataset.none !== undefined) { for (const box of all("input[name=job], [data-all]")) box.checked = false; count(); }
  else toggleTheme();
});

// A form is sent once, however often its button is pressed; a page from the browser's cache may send it again.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.method !== "post") return;
  if (event.target.dataset.sent) event.preventDefault();
  else event.target.dataset.sent = "1";
});
addEventListener("pageshow", () => { for (const form of all("form[data-sent]")) delete form.dataset.sent; count(); });

// The keyboard, as the page `?` lists it; `relay-keys=off` turns single keys off.
let waiting = "";
const base = new URL(document.querySelector(".brand")?.href ?? location.href).pathname.replace(/\/$/, "");
const places = { o: "/", j: "/jobs", e: "/endpoints", c: "/callbacks", p: "/providers", s: "/spend", k: "/keys", a: "/audit" };
const rows = () => all("tbody tr:has(a.id), .rows > li:has(a)");
const current = () => document.querySelector(".at-row");
function step(by) {
  const list = rows();
  if (!list.length) return;
  const next = list[Math.min(list.length - 1, Math.max(0, list.indexOf(current()) + by))];
  current()?.classList.remove("at-row");
  next.classList.add("at-row");
  next.querySelector("a").focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}
function go(letter) {
  const link = all(".nav a").find((one) => one.pathname.endsWith(places[letter]) && (places[letter] !== "/" || one === document.querySelector(".nav a")));
  if (link) link.click();
}
const keys = {
  "/": () => { const field = document.querySelector("[type=search]"); if (field) field.focus(); else location.href = `${base}/search`; },
  j: () => step(1),
  k: () => step(-1),
  x: (event) => { const box = current()?.querySelector("input[name=job]"); if (box) { box.checked = !box.checked; ticked(box, event.shiftKey); } },
  c: () => (current() ?? document).querySelector("[data-copy]")?.click(),
  r: () => { const verb = document.querySelector("[data-verb=Redeliver]"); if (verb) { verb.open = true; verb.querySelector("input, button")?.focus(); } },
  p: () => indicator && pause(),
  t: () => toggleTheme(),
  "?": () => { location.href = `${base}/keyboard`; },
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const open of all(".verb[open]")) open.open = false;
    if (typing(event.target)) event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || /(^|; )relay-keys=off/.test(document.cookie)) return;
  if (waiting === "g" && places[event.key]) {
    waiting = "";
    event.preventDefault();
    return go(event.key);
  }
  waiting = event.key === "g" ? "g" : "";
  const act = keys[event.shiftKey && event.key === "X" ? "x" : event.key];
  if (!act) return;
  event.preventDefault();
  act(event);
});
show();
count();
