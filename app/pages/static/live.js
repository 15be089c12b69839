// Keeps a page fresh by fetching it again and swapping the parts marked `data-live`; the server renders everything.
"use strict";

const PAUSE = 2000;
const FOCUSABLE = "a, button, summary, [tabindex]";
const root = document.querySelector("[data-live-from]");

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function refresh() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (answer.status === 401) return location.reload(); // the session has ended: the page asks for a key
  if (!answer.ok) throw new Error(`the page answered ${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.title = fresh.title;
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (other && served.get(part.id) !== other.innerHTML) swap(part, other);
  }
  prepare();
}

// As the server sent them: what this script writes into a part is no news.
const served = new Map([...document.querySelectorAll("[data-live]")].map((part) => [part.id, part.innerHTML]));

// What the reader has opened, scrolled to and focused stays so.
function swap(part, other) {
  const kept = (selector) => [part, ...part.querySelectorAll(selector)];
  const open = kept("details").map((each) => each.open);
  const scrolled = kept("[tabindex]").map((each) => (each.matches(".tail") && atEnd(each) ? END : each.scrollTop));
  const focused = kept(FOCUSABLE).indexOf(document.activeElement);
  served.set(part.id, other.innerHTML);
  part.innerHTML = other.innerHTML;
  part.className = other.className;
  kept("details").forEach((each, index) => (each.open = open[index] ?? false));
  kept("[tabindex]").forEach((each, index) => (each.scrollTop = scrolled[index] ?? 0));
  if (focused > 0) kept(FOCUSABLE)[focused]?.focus({ preventScroll: true });
}

const END = 1e9; // further than anything scrolls
const atEnd = (box) => box.scrollTop + box.clientHeight >= box.scrollHeight - 4;

function tellAway(away) {
  document.querySelector("#away").hidden = !away;
}

// The server says when the page is another; a page that nobody looks at listens to nothing.
let source;
let ended = false;
let shownAtLast = Promise.resolve();
const changed = () => (shownAtLast = shownAtLast.then(refreshAtLast));

function follow() {
  source?.close();
  source = new EventSource(root.dataset.liveFrom);
  source.addEventListener("message", changed);
  source.addEventListener("open", () => tellAway(false));
  source.addEventListener("error", () => {
    tellAway(!ended);
    setTimeout(followAgain, 5000); // where the browser itself does not
  });
  source.addEventListener("ended", () => {
    ended = true;
    source.close();
    changed();
  });
}

function followAgain() {
  if (document.hidden || ended || source.readyState !== EventSource.CLOSED) return;
  changed();
  follow();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else if (source) followAgain();
});

async function refreshAtLast() {
  for (;;) {
    try {
      await refresh();
      return tellAway(false);
    } catch {
      tellAway(true); // and what could not be shown is requested again
      await pause(PAUSE);
    }
  }
}

// Times are UTC, as everywhere; the reader's own is a hover away.
function prepare() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    time.title = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
    if (time.dataset.style === "ago") time.textContent = ago((Date.now() - moment) / 1000);
  }
}

function ago(seconds) {
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.copy !== undefined) {
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent.trim());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }
});

// Reading the curve: the point nearest to the pointer, or, by the arrow keys, the next one.
document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest?.("svg.curve");
  if (svg) read(svg, ((event.clientX - svg.getBoundingClientRect().left) / svg.clientWidth) * svg.viewBox.baseVal.width);
});

document.addEventListener("keydown", (event) => {
  const svg = event.target.closest?.("svg.curve");
  if (!svg || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  event.preventDefault();
  const places = [...new Set(lines(svg).flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const at = Number(svg.querySelector(".cursor").getAttribute("x1") ?? -1);
  const next = event.key === "ArrowRight" ? places.find((x) => x > at) : places.findLast((x) => x < at);
  if (next !== undefined) read(svg, next);
});

const lines = (svg) => JSON.parse(svg.dataset.lines);

function read(svg, x) {
  const words = [];
  let at = null; // the nearest point of any line
  for (const line of lines(svg)) {
    let best = line.points[0];
    for (const point of line.points) if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
    if (at === null || Math.abs(best[0] - x) < Math.abs(at - x)) at = best[0];
    words.push(`${line.label} ${best[2].toPrecision(5)} at step ${best[1].toLocaleString()}`);
  }
  svg.querySelector(".cursor").setAttribute("x1", at);
  svg.querySelector(".cursor").setAttribute("x2", at);
  svg.querySelector(".cursor").removeAttribute("visibility");
  svg.parentElement.querySelector(".reading").textContent = words.join(" · ");
}

// Reading the freeze map: the tensor under the pointer, or, by the arrow keys, the next one, or the one above or below.
document.addEventListener("pointerover", (event) => {
  const tensor = event.target.closest?.("svg.map:not(.strip) path");
  if (tensor?.querySelector("title")) readTensor(tensor);
});

document.addEventListener("keydown", (event) => {
  const map = event.target.closest?.("svg.map:not(.strip)");
  const go = { ArrowLeft: previous, ArrowRight: next, ArrowUp: above, ArrowDown: below, Home: first, End: last }[event.key];
  if (!map || !go) return;
  event.preventDefault();
  const tensors = [...map.querySelectorAll("g path")];
  const at = tensors.findIndex((tensor) => tensor.matches(".read"));
  const tensor = tensors[at < 0 ? 0 : Math.min(Math.max(go(tensors, at), 0), tensors.length - 1)];
  readTensor(tensor);
  tensor.scrollIntoView({ block: "nearest" });
});

const previous = (tensors, at) => at - 1;
const next = (tensors, at) => at + 1;
const first = () => 0;
const last = (tensors) => tensors.length - 1;
const above = (tensors, at) => beside(tensors, at, tensors[at].closest("g").previousElementSibling);
const below = (tensors, at) => beside(tensors, at, tensors[at].closest("g").nextElementSibling);

// The tensor of another layer that is where this one is, from left to right; this one where there is no other layer.
function beside(tensors, at, layer) {
  const middle = ({ left, right }) => (left + right) / 2;
  const x = middle(tensors[at].getBoundingClientRect());
  const found = [...(layer?.querySelectorAll(":scope > path") ?? [])].find((each) => each.getBoundingClientRect().right > x);
  return found ? tensors.indexOf(found) : at;
}

function readTensor(tensor) {
  const map = tensor.closest("svg");
  map.querySelector(".read")?.classList.remove("read");
  tensor.classList.add("read");
  const layer = tensor.closest("g").getAttribute("aria-label");
  document.querySelector(".tensor").textContent = `${layer} · ${tensor.querySelector("title").textContent}`;
}

prepare();
for (const box of document.querySelectorAll(".tail")) box.scrollTop = END;
if (root) follow();
