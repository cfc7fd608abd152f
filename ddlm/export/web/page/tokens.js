// What the logits of a position say, and a token drawn from them: ddlm/export/runtime/tokens.py for one row.
// Weights are rounded to float32, and their sums stay in float64, as there.

const { exp, fround, log, max } = Math;
const COLDEST = 1e-30; // below it a temperature would be 0 in float32
const LEAST_ODDS = 1e-15; // below it a sum that begins with 1 tells nothing apart

/** The temperature when this share of the text, 0 … 1, is written. */
export function temperatureAt(sampling, written) {
  if (sampling.final_temperature === null) return sampling.temperature;
  const isCosine = sampling.temperature_schedule === "cosine";
  const progress = isCosine ? (1 - Math.cos(Math.PI * written)) / 2 : written;
  return sampling.temperature + (sampling.final_temperature - sampling.temperature) * progress;
}

/** log(p / (1 - p)) of the most likely token. */
export function logOdds(logits) {
  return -log(max(total(weights(logits)) - 1, LEAST_ODDS));
}

/** The probability of the most likely token less that of the next. */
export function margin(logits) {
  let [first, second] = [-Infinity, -Infinity];
  for (const value of logits) {
    if (value > first) [first, second] = [value, first];
    else if (value > second) second = value;
  }
  return (1 - exp(second - first)) / total(weights(logits));
}

/** Minus the entropy, in nats. */
export function certainty(logits) {
  const best = logits[mostLikely(logits)];
  let [sum, moment] = [0, 0];
  for (let id = 0; id < logits.length; id++) {
    const behind = max(fround(logits[id] - best), -100);
    const weight = fround(exp(behind));
    sum += weight;
    moment += fround(weight * behind);
  }
  return -(log(sum) - moment / sum);
}

/** Whether no token is more likely than this one. */
export function wants(logits, token) {
  return logits[token] >= logits[mostLikely(logits)];
}

/** The probability of a token at temperature 1, unfiltered. */
export function probability(logits, token) {
  const shares = weights(logits);
  return fround(shares[token] / total(shares));
}

/** -log p of a token, in nats. */
export function surprise(logits, token) {
  const best = logits[mostLikely(logits)];
  return log(total(weights(logits))) + best - logits[token];
}

/** A token, by inverting the cumulative distribution of what the filters leave, in the order of ids. */
export function drawToken(logits, uniform, temperature, sampling) {
  if (sampling.temperature === 0) return mostLikely(logits);
  const weight = keepLikely(weights(logits, max(temperature, COLDEST)), sampling);
  const wanted = uniform * total(weight);
  let [id, reached] = [0, weight[0]];
  while (reached < wanted) reached += weight[++id];
  return id;
}

/** Top-k, then the most likely tokens until top_p is reached; the rest gets 0. Ties with the last are kept. */
function keepLikely(weight, { top_k, top_p }) {
  let kept = weight;
  if (top_k !== null && top_k < weight.length) kept = from(kept, descending(kept)[top_k - 1]);
  return top_p < 1 ? from(kept, nucleusEdge(kept, top_p)) : kept;
}

function from(weight, edge) {
  return weight.map((value) => (value >= edge ? value : 0));
}

/** The least likely token that the nucleus needs. */
function nucleusEdge(weight, top_p) {
  const ordered = descending(weight);
  const wanted = top_p * total(weight);
  let [needed, reached] = [0, ordered[0]];
  while (reached < wanted && needed < ordered.length - 1) reached += ordered[++needed];
  return ordered[needed];
}

function descending(values) {
  return values.slice().sort().reverse();
}

/** Probabilities as shares of the largest one, float32. */
function weights(logits, temperature = 1) {
  const best = logits[mostLikely(logits)];
  const divisor = fround(temperature);
  return logits.map((value) => exp(fround(fround(value - best) / divisor)));
}

function total(values) {
  let sum = 0;
  for (let index = 0; index < values.length; index++) sum += values[index];
  return sum;
}

function mostLikely(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/** In place: tokens that the text has already become less likely. */
export function penalise(logits, used, penalty) {
  const factor = fround(penalty);
  for (const id of used) {
    if (id < logits.length) logits[id] = logits[id] > 0 ? logits[id] / factor : logits[id] * factor;
  }
}
