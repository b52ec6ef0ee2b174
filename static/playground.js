// The playground, live: words are put in as they come; at every other turn of events the server paints the answers anew.

import { announce } from "./announce.js";
import { parse, swap } from "./fragments.js";

const chat = document.getElementById("chat");
const answers = () => document.getElementById("answers");
const isOver = () => ["done", "stopped", "failed"].includes(answers().dataset.state);
const TURNS = ["begun", "loading", "answered", "declined", "rewarded", "given_back", "ended"];

let last = 0;
let work = Promise.resolve();  // events are taken one after the other, a painting between them included

async function paint() {
  const answer = await fetch(`${chat.dataset.live}/answers`);
  if (!answer.ok) return;
  const fresh = parse(await answer.text()).querySelector("#answers");
  htmx.process(fresh);
  swap(answers(), fresh);
  last = Math.max(last, Number(fresh.dataset.seq));
}

function say({ model, text, is_whole }) {
  const slot = answers().querySelector(`[data-model="${model}"]`);
  if (!slot) return;
  const atEnd = slot.scrollHeight - slot.scrollTop - slot.clientHeight < 8;
  slot.textContent = is_whole ? text : slot.textContent + text;
  slot.classList.add("speaking");
  if (atEnd) slot.scrollTop = slot.scrollHeight;
  tell("");
}

function tell(sentence) {
  const doing = document.getElementById("doing");
  if (doing && doing.textContent !== sentence) doing.textContent = sentence;
}

function take(message, act) {
  work = work.then(async () => {
    if (Number(message.lastEventId) <= last) return;
    last = Number(message.lastEventId);
    await act(JSON.parse(message.data).payload);
  });
}

function listen() {
  const stream = new EventSource(`${chat.dataset.live}/live?after=${last}`);
  stream.addEventListener("spoken", (message) => take(message, say));
  for (const kind of TURNS) stream.addEventListener(kind, (message) => take(message, paint));
  stream.addEventListener("waiting", ({ data }) => { if (JSON.parse(data).detail) tell(JSON.parse(data).detail); });
  stream.addEventListener("end", () => {
    stream.close();
    work = work.then(() => announce("The models have answered."));
  });
  stream.addEventListener("error", () => {
    // A refusal (not a lost connection) closes the stream for good: try again ourselves, from where we stand.
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
  addEventListener("pagehide", () => stream.close(), { once: true });
}

if (chat) {
  last = Number(answers().dataset.seq);
  if (!isOver()) listen();
  addEventListener("pageshow", ({ persisted }) => { if (persisted && !isOver()) listen(); });
}

document.getElementById("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.requestSubmit();
});
