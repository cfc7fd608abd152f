// Which filling of a gap the model finds likeliest: the any-order bound, as DiffusionPipeline.infill takes it.

import { surprise } from "./tokens.js";

const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const WORD = (1n << 64n) - 1n;

/** numpy's default generator from a state that settings.json gives: numbers in [0, 1). */
export function* pcg64({ state, inc }) {
  let [current, increment] = [BigInt(state), BigInt(inc)];
  for (;;) {
    current = BigInt.asUintN(128, current * MULTIPLIER + increment);
    const mixed = (current >> 64n) ^ (current & WORD);
    const turn = current >> 122n;
    const word = ((mixed >> turn) | (mixed << (64n - turn))) & WORD;
    yield Number(word >> 11n) / 9007199254740992;
  }
}

/** Masks within so many positions: sizes stratified over 1 … all of them, places uniform. ddlm.diffusion.bound. */
export function masksOf(size, masks, generator) {
  const numbers = pcg64(generator);
  const next = () => numbers.next().value;
  const sizes = Array.from({ length: masks }, (_, mask) => Math.floor(((mask + next()) / masks) * size) + 1);
  return sizes.map((most) => {
    const numbersOfPlaces = Array.from({ length: size }, next);
    const order = [...numbersOfPlaces.keys()].sort((a, b) => numbersOfPlaces[a] - numbersOfPlaces[b]);
    return new Set(order.slice(0, most));
  });
}

/** The number of the candidate whose gap tokens have the lowest bound on their nats a token.
 * Each has its canvas with masks in the gaps, and the ids that filled it. */
export async function keepBest(about, network, candidates) {
  const nats = [];
  for (const candidate of candidates) nats.push(await gapNats(about, network, candidate));
  return nats.indexOf(Math.min(...nats));
}

async function gapNats(about, network, { canvas, ids }) {
  const places = [...canvas.keys()].filter((at) => canvas[at] === about.mask_id);
  if (about.is_autoregressive) return (await natsOf(about, network, ids, places, [])) / places.length; // exact
  let sum = 0;
  for (const mask of masksOf(places.length, about.gap_masks, about.gap_generator)) {
    const hidden = places.filter((_, index) => mask.has(index));
    sum += ((await natsOf(about, network, ids, hidden, hidden)) * places.length) / hidden.length;
  }
  return sum / about.gap_masks / places.length;
}

/** -log p of the ids at some places, summed, while those at `hidden` are masks. */
async function natsOf(about, network, ids, places, hidden) {
  const masked = Int32Array.from(ids);
  for (const at of hidden) masked[at] = about.mask_id;
  const logits = await network(masked);
  const row = (at) => logits.subarray(at * about.vocab_size, (at + 1) * about.vocab_size);
  return places.reduce((sum, at) => sum + surprise(row(at), ids[at]), 0);
}
