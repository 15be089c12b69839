// The form works without this: here the preview follows what is filled in, and an upload shows how far it is.
"use strict";

const PAUSE_BEFORE_PREVIEW = 500;
const form = document.querySelector("#job");
const shown = document.querySelector("#preview");
let waiting, running;

function previewSoon() {
  clearTimeout(waiting);
  if (!form.elements.model.value.trim()) return;
  waiting = setTimeout(preview, PAUSE_BEFORE_PREVIEW);
}

async function preview() {
  running?.abort();
  running = new AbortController();
  const body = new URLSearchParams(new FormData(form));
  body.set("do", "preview");
  shown.classList.add("stale");
  try {
    const answer = await fetch("/new", { method: "POST", body, headers: { accept: "text/html" }, signal: running.signal });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#preview");
    if (fresh) shown.innerHTML = fresh.innerHTML;
    else tellRefused(answer.status);
    tellAway(false);
  } catch (error) {
    if (error.name === "AbortError") return; // a newer one is under way
    tellAway(true);
  }
  shown.classList.remove("stale");
}

// What is filled in stays; with a session begun in another tab it goes on.
function tellRefused(status) {
  const words = `<section class="panel alert" role="alert"><p>${
    status === 401
      ? 'The session of this page has ended. <a href="/login" target="_blank">Sign in again</a>, and go on here.'
      : `No preview: the service answered ${status}.`
  }</p></section>`;
  shown.innerHTML = words;
}

form.addEventListener("input", previewSoon);
form.addEventListener("submit", (event) => {
  if (event.submitter?.value !== "preview") return;
  event.preventDefault();
  clearTimeout(waiting);
  preview();
});
// Who writes into a field of a choice means that choice.
for (const [field, preset] of [["policy", "json"], ["layers", "layers"]]) {
  form.elements[field].addEventListener("input", () => (form.elements.preset.value = preset));
}

const upload = document.querySelector("#upload");
upload.addEventListener("submit", (event) => {
  event.preventDefault();
  const uploaded = document.querySelector("#uploaded");
  const bar = document.querySelector("#uploading");
  const button = upload.querySelector("button");
  const sent = new XMLHttpRequest(); // fetch does not say how much of a body it has sent
  const progress = (share) => {
    bar.setAttribute("aria-valuenow", Math.round(100 * share));
    bar.firstElementChild.style.width = `${100 * share}%`;
  };
  sent.upload.addEventListener("progress", (each) => each.lengthComputable && progress(each.loaded / each.total));
  sent.addEventListener("loadend", () => {
    button.disabled = false;
    bar.hidden = true;
    const answer = parsed(sent.responseText);
    if (sent.status !== 200) {
      uploaded.textContent = answer?.error?.message ?? "The upload broke off; try again.";
      return;
    }
    uploaded.textContent = `Uploaded ${answer.filename}, ${answer.bytes.toLocaleString()} bytes.`;
    const label = `${answer.filename}, ${answer.bytes.toLocaleString()} bytes, ${answer.id.slice(-6)}`;
    form.elements.training_file.add(new Option(label, answer.id, true, true), 1);
    form.elements.validation_file.add(new Option(label, answer.id), 1);
    upload.reset();
    previewSoon();
  });
  button.disabled = true;
  bar.hidden = false;
  progress(0);
  uploaded.textContent = "";
  sent.open("POST", "/v1/files");
  sent.send(new FormData(upload));
});

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// A form that is opened again by the browser's history is filled in already; so is one that an upload came back to.
if (!shown.querySelector("section")) previewSoon();
