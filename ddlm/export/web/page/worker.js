// The network's own thread: the page never waits for it. Messages in: load, write, stop, count. Out: loading, ready,
// counted, frame, done, failed.

import { hasGap } from "./drafts.js";
import { load } from "./model.js";
import { InputError } from "./tokenizer.js";
import { Writer } from "./writing.js";

let writer = null;
let isStopped = false;

const answers = {
  async load({ provider }) {
    const parts = await load(provider, (bytes, all) => postMessage({ kind: "loading", bytes, all }));
    writer = new Writer(parts.about, parts.tokenizer, parts.network);
    postMessage({ kind: "ready", about: parts.about, provider });
  },

  /** Tokens of a text that is being typed, or why it can't be written. */
  async count({ text }) {
    const [shortest] = writer.drafts(text, null).sort((a, b) => a.given.length - b.given.length);
    const tokens = shortest.given.length - shortest.hidden - shortest.hiddenBehind;
    const most = writer.about.seq_len - writer.about.prefix.length - writer.about.suffix.length - 1;
    postMessage({ kind: "counted", tokens, most, isInfill: hasGap(text) });
  },

  async write({ text, sampling, seed, length }) {
    isStopped = false;
    const started = performance.now();
    let tokens = 0;
    for await (const frame of writer.write({ text, sampling, seed, length })) {
      tokens += frame.isKept ? 0 : frame.states.filter((state) => state === "new").length;
      const seconds = (performance.now() - started) / 1000;
      postMessage({ kind: "frame", frame: { ...frame, ids: null, seconds, tokensPerS: tokens / seconds } });
      await otherMessages();
      if (isStopped) break;
    }
    postMessage({ kind: "done", isStopped });
  },

  async stop() {
    isStopped = true;
  },
};

/** Lets a stop in. A timer would wait for 4 ms each time. */
function otherMessages() {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = resolve;
    port2.postMessage(null);
  });
}

onmessage = async ({ data }) => {
  try {
    await answers[data.kind](data);
  } catch (error) {
    const isKnown = error instanceof InputError;
    if (!isKnown) console.error(error);
    postMessage({ kind: "failed", of: data.kind, isKnown, message: isKnown ? error.message : `the network stopped: ${error.message ?? error}` });
  }
};
