// The upload form: drag and drop, and how far the file is. The file goes to the same address that REST clients use.

import { percent, size } from "./format.js";

const form = document.getElementById("upload");
const file = document.getElementById("file");
const drop = document.getElementById("drop");
const byId = (id) => document.getElementById(id);

for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) file.files = event.dataTransfer.files;
});

function showError(title, detail, problems = []) {
  const notice = document.createElement("div");
  notice.className = "notice bad";
  notice.setAttribute("role", "alert");
  const strong = document.createElement("strong");
  strong.textContent = title;
  const text = document.createElement("p");
  text.textContent = detail;
  notice.append(strong, text);
  if (problems.length > 1) {
    const list = document.createElement("ul");
    for (const { message } of problems.slice(0, 20)) list.appendChild(document.createElement("li")).textContent = message;
    notice.append(list);
  }
  byId("upload-error").replaceChildren(notice);
}

// All sent, the server reads: how long that takes isn't known, so the bar only moves.
function showSent(loaded, total) {
  const bar = byId("upload-bar");
  const isSent = loaded >= total;
  if (isSent) bar.removeAttribute("value"); else bar.value = loaded / total;
  byId("upload-text").textContent = isSent ? "Reading and checking…" : "Uploading";
  byId("upload-share").textContent = isSent ? size(total) : `${size(loaded)} of ${size(total)}, ${percent(loaded / total)}`;
}

function markFile(text) {
  byId("file-error").textContent = text;
  if (text) file.setAttribute("aria-invalid", "true"); else file.removeAttribute("aria-invalid");
}

function busy(isBusy) {
  byId("upload-state").textContent = "";
  byId("upload-progress").hidden = !isBusy;
  byId("upload-stop").hidden = !isBusy;
  byId("upload-button").disabled = isBusy;
}

function finish(request) {
  let answer = {};
  try { answer = JSON.parse(request.responseText); } catch { /* not ours: the status says enough */ }
  if (request.status === 201) { location.assign(`/datasets/${answer.id}`); return; }
  busy(false);
  const refused = request.status === 413 || request.status === 422;
  const atFile = answer.problems?.find(({ field }) => field === "file") ?? (refused ? { message: answer.detail } : null);
  if (atFile) markFile(atFile.message);
  showError(answer.title ?? "The upload failed", answer.detail ?? `The server answered ${request.status}. Try again.`, answer.problems);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  byId("upload-error").replaceChildren();
  markFile("");
  if (!file.files.length) {
    markFile("Choose a file.");
    showError("No file", "Choose a file, or drop one onto the field.");
    file.focus();
    return;
  }
  const request = new XMLHttpRequest(); // fetch can't tell how much has been sent
  request.upload.addEventListener("progress", ({ loaded, total }) => showSent(loaded, total));
  request.addEventListener("load", () => finish(request));
  request.addEventListener("error", () => { busy(false); showError("The upload failed", "The connection was lost. Try again."); });
  request.addEventListener("abort", () => { busy(false); byId("upload-state").textContent = "The upload was stopped. Nothing was kept."; });
  byId("upload-stop").onclick = () => request.abort();
  request.open("POST", "/api/v1/datasets");
  request.send(new FormData(form));
  busy(true);
});
