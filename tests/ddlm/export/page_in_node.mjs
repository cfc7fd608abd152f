// The page's modules without a browser: one JSON document in, one out.
// { site, calls: [[kind, argument]…] }, where kind names a function below.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { gunzipSync } from "node:zlib";

const asked = JSON.parse(readFileSync(0, "utf8"));
const page = new URL(`${pathToFileURL(asked.page)}/`);
const modules = {};
for (const name of ["bound", "copying", "drafts", "draws", "sampler", "tokenizer", "unmasking", "writing"]) {
  modules[name] = await import(new URL(`${name}.js`, page));
}
const { bound, copying, draws, sampler, tokenizer: tokenizing, unmasking, writing } = modules;

const site = asked.site && new URL(`${pathToFileURL(asked.site)}/`);
const read = (name) => readFileSync(new URL(name, site));
const settings = () => JSON.parse(read("data/settings.json"));
const tokenizer = (about) => new tokenizing.Tokenizer(JSON.parse(read("data/tokenizer.json")), about.kind);

async function session() {
  const ort = await import(new URL("vendor/ort.wasm.min.mjs", site));
  ort.env.wasm.wasmBinary = new Uint8Array(gunzipSync(read("vendor/ort-wasm-simd-threaded.wasm.gz"))).buffer;
  ort.env.wasm.numThreads = 1;
  const graph = new Uint8Array(gunzipSync(read("data/model.onnx.gz")));
  const made = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  return async (ids) => (await made.run({ ids: new ort.Tensor("int32", ids, [1, ids.length]) })).logits.data;
}

let writer = null;
async function writerOf() {
  const about = settings();
  return (writer ??= new writing.Writer(about, tokenizer(about), await session()));
}

/** A network that says of every canvas what a table has for it, by a sum over its ids. */
function tableOf({ rows, picks }) {
  return async (ids) => {
    const sum = ids.reduce((total, id, at) => total + id * (at + 1), 0);
    return Float32Array.from(picks[sum % picks.length].flatMap((row) => rows[row]));
  };
}

const calls = {
  philox: ([counter, key]) => draws.philox(counter, key),
  policies: () => ({ policies: Object.keys(unmasking.POLICIES), rewriting: [...unmasking.REWRITING].sort() }),
  words: ([seed, sample, step, position]) => draws.words(draws.keyOf(BigInt(seed)), sample, step, position),
  units: ([word, high, low]) => [draws.toUnit(word), draws.pairToUnit(high, low)],
  encode: (text) => { try { return tokenizer(settings()).encode(text); } catch (error) { return error.message; } },
  decode: (ids) => tokenizer(settings()).decode(ids),
  pieces: (ids) => tokenizer(settings()).pieces(ids),
  copied: (text) => copying.withGaps(text.replaceAll("█", copying.BLANK)),
  masks: ([size, masks, generator]) => bound.masksOf(size, masks, generator).map((mask) => [...mask].sort((a, b) => a - b)),

  async denoise({ table, start, sampling, seed, sample, endId, maskId, forbidden, startsWord, wordStarts }) {
    const draw = new unmasking.Draw({
      sampling, seed: BigInt(seed), sample, endId, maskId, forbidden, wordStarts, startsWord: new Set(startsWord),
    });
    let asked = 0;
    const network = tableOf(table);
    const states = [];
    for await (const state of sampler.denoise((ids) => (asked++, network(ids)), start, draw)) states.push([...state.ids]);
    return { states, calls: asked };
  },

  async write({ text, sampling, seed, length = null }) {
    const page = await writerOf();
    let last = null;
    try {
      for await (const frame of page.write({ text, sampling: { ...page.about.sampling, ...sampling }, seed: BigInt(seed), length })) last = frame;
    } catch (error) {
      return { error: error.message };
    }
    return { text: last.text, step: last.step };
  },
};

const answers = [];
for (const [kind, argument] of asked.calls) answers.push(await calls[kind](argument));
console.log(JSON.stringify(answers));
