// Keeps a page fresh by fetching it again and swapping the parts marked `data-live`; the server renders everything.
"use strict";

const WAIT_SECONDS = 25;
const PAUSE = 700;
const root = document.querySelector("[data-job], [data-dashboard]");

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function refresh() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (other && other.innerHTML !== part.innerHTML) {
      part.innerHTML = other.innerHTML;
      part.className = other.className;
    }
  }
  prepare();
}

async function followJob(id) {
  let tag = root.dataset.etag;
  for (;;) {
    try {
      const answer = await fetch(`/v1/fine_tuning/jobs/${id}`, {
        headers: { prefer: `wait=${WAIT_SECONDS}`, "if-none-match": tag },
        cache: "no-store",
      });
      if (answer.status === 200) {
        tag = answer.headers.get("etag");
        await refresh();
        if ((await answer.json()).finished_at) return;
      }
      await pause(PAUSE);
    } catch {
      await pause(5000); // the service is away for a while
    }
  }
}

async function followDashboard() {
  for (;;) {
    await pause(2500);
    if (!document.hidden) await refresh().catch(() => {});
  }
}

function prepare() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    time.title = moment.toLocaleString();
    if (time.dataset.style === "clock") time.textContent = moment.toLocaleTimeString();
    else if (time.dataset.style === "ago") time.textContent = ago((Date.now() - moment) / 1000);
  }
}

function ago(seconds) {
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

async function control(button) {
  const { job, action } = button.dataset;
  if (action === "cancel" && !confirm("Cancel this job? What it has trained so far is lost.")) return;
  button.disabled = true;
  const answer = await fetch(`/v1/fine_tuning/jobs/${job}/${action}`, { method: "POST" });
  if (!answer.ok) alert((await answer.json()).error.message);
  await refresh();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.action) await control(button);
  if (button?.dataset.copy !== undefined) {
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent.trim());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }
});

// Reading the curve: the point nearest to the pointer, or to the arrow keys.
document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest?.("svg.curve");
  if (svg) read(svg, ((event.clientX - svg.getBoundingClientRect().left) / svg.clientWidth) * svg.viewBox.baseVal.width);
});

function read(svg, x) {
  const words = [];
  let at = null;
  for (const line of JSON.parse(svg.dataset.lines)) {
    let best = line.points[0];
    for (const point of line.points) if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
    at ??= best[0];
    words.push(`${line.split === "train" ? "training" : "validation"} ${best[3].toPrecision(5)} at step ${best[2].toLocaleString()}`);
  }
  svg.querySelector(".cursor").setAttribute("x1", at);
  svg.querySelector(".cursor").setAttribute("x2", at);
  svg.querySelector(".cursor").removeAttribute("visibility");
  document.querySelector(".reading").textContent = words.join(" · ");
}

prepare();
if (root?.dataset.job && root.dataset.following) followJob(root.dataset.job);
if (root?.dataset.dashboard !== undefined) followDashboard();
