// The files of this page, fetched and unpacked, and the network that they make.

import { InputError, Tokenizer } from "./tokenizer.js";

export const RUNTIMES = {
  wasm: { module: "./vendor/ort.wasm.min.mjs", binary: "vendor/ort-wasm-simd-threaded.wasm.gz" },
  webgpu: { module: "./vendor/ort.webgpu.min.mjs", binary: "vendor/ort-wasm-simd-threaded.jsep.wasm.gz" },
};
const GZIP = [0x1f, 0x8b];

/** settings.json, the tokenizer and the network. provider: wasm or webgpu. progress: told (bytes, of how many).
 * Throws InputError for what can't be fetched or isn't what the settings say. */
export async function load(provider, progress) {
  const about = JSON.parse(new TextDecoder().decode(await fetched("data/settings.json")));
  const { module, binary } = RUNTIMES[provider];
  const meter = meterOf(about, ["data/model.onnx.gz", binary], progress);
  const [tokens, graph, wasm, ort] = await Promise.all([
    fetched("data/tokenizer.json"), unpacked(about, "data/model.onnx.gz", meter), unpacked(about, binary, meter),
    import(module).catch(() => { throw missing(module); }),
  ]);
  const tokenizer = new Tokenizer(JSON.parse(new TextDecoder().decode(tokens)), about.kind);
  return { about, tokenizer, network: await networkOf(ort, provider, graph, wasm, about) };
}

function meterOf(about, names, progress) {
  const all = names.reduce((sum, name) => sum + about.files[name].transferred_bytes, 0);
  let loaded = 0;
  return (bytes) => progress((loaded += bytes), all);
}

function missing(name) {
  return new InputError(`${name} can't be fetched; is the server there? Try again when it is`);
}

async function fetched(name, meter = () => {}, cache = "default") {
  const response = await fetch(new URL(name, import.meta.url), { cache }).catch(() => { throw missing(name); });
  if (!response.ok) throw missing(name);
  const parts = [];
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => { throw missing(name); });
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    meter(value.length);
  }
}

/** A file as it was before it was packed. What an older page left in the cache is fetched anew. */
async function unpacked(about, name, meter) {
  for (const cache of ["default", "reload"]) {
    const whole = await whatIsIn(await fetched(name, meter, cache));
    if (whole.length === about.files[name].bytes) return whole;
  }
  throw new InputError(`${name} is damaged or of another page; copy the folder again`);
}

/** Packed by us, so that it is small from any server; one that announces gzip has the browser unpack it. */
async function whatIsIn(bytes) {
  const isPacked = GZIP.every((byte, at) => bytes[at] === byte);
  return isPacked ? gunzip(bytes).catch(() => new Uint8Array()) : bytes;
}

async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Int32Array of ids to a promise of the logits, Float32Array, position after position. */
async function networkOf(ort, provider, graph, wasm, about) {
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.numThreads = 1; // more need headers that static hosts can't send
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(graph, { executionProviders: [provider] });
  return async (ids) => {
    const tensor = new ort.Tensor("int32", Int32Array.from(ids), [1, about.seq_len]);
    const { logits } = await session.run({ ids: tensor });
    return logits.data;
  };
}
