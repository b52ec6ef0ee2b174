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

function busy(isBusy) {
  byId("upload-progress").hidden = !isBusy;
  byId("upload-stop").hidden = !isBusy;
  byId("upload-button").disabled = isBusy;
}

function finish(request) {
  let answer = {};
  try { answer = JSON.parse(request.responseText); } catch { /* not ours: the status says enough */ }
  if (request.status === 201) { location.assign(`/datasets/${answer.id}`); return; }
  busy(false);
  showError(answer.title ?? "The upload failed", answer.detail ?? `The server answered ${request.status}. Try again.`, answer.problems);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  byId("upload-error").replaceChildren();
  if (!file.files.length) { showError("No file", "Choose a file, or drop one onto the field."); file.focus(); return; }
  const request = new XMLHttpRequest(); // fetch can't tell how much has been sent
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    byId("upload-bar").value = loaded / total;
    byId("upload-text").textContent = loaded < total ? "Uploading" : "Reading the file";
    byId("upload-share").textContent = `${size(loaded)} of ${size(total)}, ${percent(loaded / total)}`;
  });
  request.addEventListener("load", () => finish(request));
  request.addEventListener("error", () => { busy(false); showError("The upload failed", "The connection was lost. Try again."); });
  request.addEventListener("abort", () => busy(false));
  byId("upload-stop").onclick = () => request.abort();
  request.open("POST", "/api/v1/datasets");
  request.send(new FormData(form));
  busy(true);
});
