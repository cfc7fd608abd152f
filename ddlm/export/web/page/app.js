// The page: what is typed and set goes to the worker, and what comes back goes on the sheet.

import { Controls, made } from "./controls.js";
import { hasGap } from "./drafts.js";
import { RUNTIMES } from "./model.js";
import { Sheet } from "./sheet.js";
import { InputError } from "./tokenizer.js";

const EXAMPLES = [
  { label: "Once upon a time", text: "Once upon a time", values: {} },
  { label: "From nothing", text: "", values: {} },
  { label: "A gap of any length", text: "One day, a little ___ went to the park and found a ___.", values: {} },
  { label: "A gap of five tokens", text: "Tom was sad because ___[5]. Then his mom came.", values: {} },
  { label: "Eight steps", text: "Lily had a dog.", values: { num_sampling_steps: 8, unmasking: "confidence" } },
  { label: "Many words at once", text: "The sun was", values: { unmasking: "entropy_bound", entropy_bound: 1 } },
];
const COUNT_AFTER_MS = 200;
const ANNOUNCE_EVERY = 0.25;
const $ = (id) => document.getElementById(id);

const sheet = new Sheet({
  story: $("story"), progress: $("progress"), counts: $("counts"), history: $("history"), moment: $("moment"), replay: $("replay"),
});
const state = { worker: null, about: null, controls: null, isReady: false, isWriting: false, announced: 0, provider: "wasm" };

function start(provider) {
  state.worker?.terminate();
  Object.assign(state, { provider, isReady: false });
  state.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  state.worker.onmessage = ({ data }) => hear[data.kind](data);
  state.worker.onerror = (event) => hear.failed({ of: "load", message: `the worker stopped: ${event.message || "it can't be fetched; is the server there?"}` });
  state.worker.postMessage({ kind: "load", provider });
  setBusy(false);
}

const hear = {
  loading({ bytes, all }) {
    $("progress").value = bytes / all;
    const isWaiting = $("waiting");
    if (isWaiting) isWaiting.textContent = `Fetching the model: ${inMb(bytes)} of ${inMb(all)} MB`;
  },

  ready({ about }) {
    Object.assign(state, { about, isReady: true });
    if (!state.controls) introduce(about);
    if ($("waiting")) sheet.clear("The story appears here.");
    setBusy(false);
    say("Ready to write.");
    count();
  },

  counted({ tokens, most, isInfill }) {
    $("text-size").textContent = isInfill ? `${tokens} of ${most} tokens with gaps` : `${tokens} of ${most} tokens`;
    $("text-size").classList.remove("over");
  },

  frame({ frame }) {
    sheet.add(frame);
    if (frame.share < state.announced + ANNOUNCE_EVERY || frame.share === 1) return;
    state.announced = frame.share;
    say(`${Math.floor(100 * frame.share)} percent written`);
  },

  done({ isStopped }) {
    setBusy(false);
    if (!isStopped && isCutOff()) sheet.cutOff();
    say(isStopped ? "Stopped." : `Finished: ${sheet.text}`);
  },

  failed({ of, message }) {
    if (of === "count") {
      $("text-size").textContent = message;
      $("text-size").classList.add("over");
      return;
    }
    complain(message);
    setBusy(false);
    if (of === "load") recover();
  },
};

/** What can be said and set once the settings are here. */
function introduce(about) {
  state.controls = new Controls($("controls"), about);
  $("model").textContent = about.title;
  if (about.is_autoregressive) {
    $("title").textContent = "Written from left to right";
    $("lead").textContent = "This is the twin that diffusion models are compared with: it writes a word at a time. It runs in this page: nothing that you write leaves your machine.";
  }
  const weights = (about.parameters / 1e6).toFixed(1);
  $("facts").textContent = `A language model of ${weights} million weights that writes up to ${about.seq_len} tokens at a time.`;
  $("examples").replaceChildren(...EXAMPLES.map(exampleButton));
  offerGraphicsCard(about);
}

function exampleButton({ label, text, values }) {
  const button = made("button", { type: "button", textContent: label });
  button.addEventListener("click", () => {
    $("text").value = text;
    state.controls.set({ ...state.about.sampling, length: null, ...(state.about.is_autoregressive ? {} : values) });
    count();
    $("text").focus();
  });
  return button;
}

async function offerGraphicsCard(about) {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return;
  const more = inMb(about.files[RUNTIMES.webgpu.binary].transferred_bytes);
  const input = made("input", { type: "checkbox", id: "webgpu" });
  const row = made("div", { className: "row" });
  row.append(made("label", { htmlFor: "webgpu", textContent: "Graphics card" }), input);
  const element = made("div", { className: "control" });
  element.append(row, made("p", { className: "help", textContent: `Runs the network with WebGPU, after fetching ${more} MB more. Rarely, a seed writes another text there.` }));
  input.addEventListener("change", () => start(input.checked ? "webgpu" : "wasm"));
  $("controls").append(element);
}

/** After a failed start: back to the processor if it was the graphics card, else a button to try again. */
function recover() {
  if (state.provider === "webgpu") {
    $("webgpu").checked = false;
    start("wasm");
    return;
  }
  const again = made("button", { type: "button", textContent: "Try again", id: "again" });
  again.addEventListener("click", () => {
    complain("");
    start("wasm");
  });
  $("error").append(" ", again);
}

function write() {
  complain("");
  try {
    state.controls.newSeed();
    const wanted = { text: $("text").value, ...state.controls.read() };
    sheet.clear();
    Object.assign(state, { wanted, announced: 0 });
    setBusy(true);
    say("Writing.");
    state.worker.postMessage({ kind: "write", ...wanted });
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    complain(error.message);
  }
}

/** Whether the model would have gone on behind the canvas. */
function isCutOff() {
  const { length, text } = state.wanted;
  return length === null && !hasGap(text) && state.about.prefix.length + sheet.frames.at(-1).texts.length === state.about.seq_len;
}

function stop() {
  if (state.isWriting) state.worker.postMessage({ kind: "stop" });
}

let counting = null;
function count() {
  clearTimeout(counting);
  counting = setTimeout(() => state.isReady && state.worker.postMessage({ kind: "count", text: $("text").value }), COUNT_AFTER_MS);
}

function setBusy(isWriting) {
  state.isWriting = isWriting;
  $("write").disabled = isWriting || !state.isReady;
  $("stop").disabled = !isWriting;
  $("story").setAttribute("aria-busy", String(isWriting));
}

function complain(message) {
  $("error").textContent = message;
}

function say(sentence) {
  $("status").textContent = sentence;
}

function inMb(bytes) {
  return (bytes / 1e6).toFixed(1);
}

async function copy() {
  await navigator.clipboard.writeText(sheet.copy);
  $("copy").textContent = "Copied";
  say("Copied.");
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

$("desk").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("write").disabled) write();
});
$("stop").addEventListener("click", stop);
$("text").addEventListener("input", count);
$("copy").addEventListener("click", () => copy().catch(() => complain("the browser lets no page copy here; select the text instead")));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("write").disabled) write();
});
if (matchMedia("(max-width: 55.99rem)").matches) $("settings").open = false;
start("wasm");
