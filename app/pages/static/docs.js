"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// The file of the examples is none: in its place goes a small table, so that an example runs as it stands.
const PLACEHOLDER = "file-5f0c1d2e3a4b5c6d7e8f9a0b";
let sample;

async function fill(request) {
  if (request.method === "POST" && /\/v1\/fine_tuning\/(jobs|sweeps)$/.test(new URL(request.url, location.href).pathname)) {
    if (isExample(request.body)) {
      sample ??= uploadSample(request.headers);
      const id = await sample.catch(() => (sample = undefined));
      if (id) request.body = request.body.replaceAll(PLACEHOLDER, id);
    }
  }
  return request;
}

function isExample(body) {
  try {
    const given = JSON.parse(body);
    const { model, training_file: file } = given.job ?? given; // a sweep has what its jobs share
    return file === PLACEHOLDER && model.architecture === "affine" && model.kwargs.in_features === 10;
  } catch {
    return false; // whatever it is, the service says what is wrong with it
  }
}

async function uploadSample(headers) {
  const rows = Array.from({ length: 64 }, (_, row) => {
    const x = Array.from({ length: 10 }, (_, column) => ((row * (column + 3)) % 11) / 10);
    return JSON.stringify({ x, y: x[0] + 2 * x[1] - x[2] + 3 });
  });
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", new Blob([rows.join("\n")]), "sample.jsonl");
  const key = headers.Authorization ?? headers.authorization;
  const answer = await fetch("/v1/files", { method: "POST", body: form, headers: key ? { authorization: key } : {} });
  if (!answer.ok) throw new Error(`the sample was not taken: ${answer.status}`);
  return (await answer.json()).id;
}

// More than half of the document is the same error answers in every operation: the page reads each of them once.
function shareErrors(document) {
  const names = new Map();
  const operations = Object.values(document.paths).flatMap((path) => Object.values(path));
  for (const { responses } of operations) {
    for (const status of Object.keys(responses).filter((status) => status >= "400")) {
      const text = JSON.stringify(responses[status]);
      if (!names.has(text)) names.set(text, `${status}-${names.size}`);
      responses[status] = { $ref: `#/components/responses/${names.get(text)}` };
    }
  }
  document.components.responses = Object.fromEntries([...names].map(([text, name]) => [name, JSON.parse(text)]));
  return document;
}

const DOCUMENT = document.querySelector("#swagger-ui").dataset.openapi;

function lighten(response) {
  const ours = response.ok && new URL(response.url, location.href).pathname === new URL(DOCUMENT, location.href).pathname;
  if (ours) response.text = JSON.stringify(shareErrors(JSON.parse(response.text)));
  return response;
}

window.ui = SwaggerUIBundle({
  url: DOCUMENT,
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  requestInterceptor: fill,
  responseInterceptor: lighten,
  defaultModelsExpandDepth: 0,
  syntaxHighlight: { theme: "obsidian" },
  validatorUrl: null,
});
