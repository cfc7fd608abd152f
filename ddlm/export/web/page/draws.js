// Counter-based random draws, Philox 4x32-10: ddlm/draws.py in JavaScript, word for word.
// A draw is a pure function of (seed, sample, step, position). Source: Salmon et al., SC 2011.

const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57];
const KEY_STEPS = [0x9e3779b9, 0xbb67ae85];
const ROUNDS = 10;
const GENERATION_BLOCK = 0;
export const WHOLE_ROW = 0xffffffff;

/** Four 32-bit words for a counter of four and a key of two. */
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const low0 = Math.imul(c0, MULTIPLIERS[0]);
    const low1 = Math.imul(c2, MULTIPLIERS[1]);
    const high0 = highProduct(c0, MULTIPLIERS[0]);
    const high1 = highProduct(c2, MULTIPLIERS[1]);
    [c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0];
    k0 = (k0 + KEY_STEPS[0]) >>> 0;
    k1 = (k1 + KEY_STEPS[1]) >>> 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

/** The upper half of a product of 32-bit words, in parts of 16 bits: a double holds 53. */
function highProduct(a, b) {
  const [a0, a1, b0, b1] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const other = a0 * b1 + (middle & 0xffff);
  return a1 * b1 + (middle >>> 16) + (other >>> 16);
}

/** The key of a seed: any BigInt, taken modulo 2^64. */
export function keyOf(seed) {
  const words = BigInt.asUintN(64, seed);
  return [Number(words & 0xffffffffn), Number(words >> 32n)];
}

/** The four words of an address: one that orders positions, two that choose a token, one for chances. */
export function words(key, sample, step, position) {
  return philox([GENERATION_BLOCK, position, step, sample], key);
}

/** (word + 1/2) / 2^32: never 0, never 1. */
export function toUnit(word) {
  return (word + 0.5) / 4294967296;
}

/** Two words to 52 random bits between 0 and 1. */
export function pairToUnit(high, low) {
  return (Math.floor(high / 64) * 67108864 + Math.floor(low / 64) + 0.5) / 4503599627370496;
}
