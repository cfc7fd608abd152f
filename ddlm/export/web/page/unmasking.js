// Unmasking policies: which positions a step opens, and which it masks again. ddlm/export/runtime/unmasking.py.
// A policy that never looks at a logit chooses before the network runs, and a step that opens nothing does not run it.

import * as draws from "./draws.js";
import * as tokens from "./tokens.js";

const END_PENALTY = 1000; // larger than any difference of scores: an end token is opened after everything else
const [LOOP_ON, LOOP_OFF, LOOP_ALPHA] = [0.55, 0.05, 0.9];

/** How tokens are drawn, and whose draws they are. forbidden: ids that can't come out. startsWord: positions whose
 * token must be one of those with wordStarts[id]. */
export class Draw {
  constructor({ sampling, seed, endId, maskId, forbidden, startsWord = new Set(), wordStarts = [], sample = 0 }) {
    Object.assign(this, { sampling, endId, maskId, forbidden, startsWord, wordStarts, sample });
    this.key = draws.keyOf(seed);
  }

  words(step, position) {
    return draws.words(this.key, this.sample, step, position);
  }

  /** In place: what can't come out gets no weight. */
  forbid(logits, position, alsoEnd) {
    for (const id of this.forbidden) logits[id] = -Infinity;
    if (alsoEnd) logits[this.endId] = -Infinity;
    if (!this.startsWord.has(position)) return;
    for (let id = 0; id < logits.length; id++) if (!this.wordStarts[id]) logits[id] = -Infinity;
  }
}

/** What a policy may look at before a step.
 *
 * look: promises the logits of the whole canvas, flat. ids: the canvas. isFree: positions of the window that were
 * masked at first. isMasked: those still masked. mayEnd: whether the end token may come out. step: how many steps the
 * row took. steps, taken: how many the window may take, and took. count: how many positions the grid would open.
 * written: the share of the whole canvas that is written.
 */
export class View {
  constructor(fields) {
    Object.assign(this, fields);
    this.left = count(this.isMasked);
  }

  /** Measures of some positions, `elsewhere` at others. measure: (logits, position) => number, where ids that can't
   * come out have no weight. */
  async table(wanted, measure, elsewhere = 0) {
    const logits = await this.look();
    const size = logits.length / this.ids.length;
    const values = new Float64Array(this.ids.length).fill(elsewhere);
    for (const position of indices(wanted)) {
      const row = logits.slice(position * size, (position + 1) * size);
      this.draw.forbid(row, position, !this.mayEnd);
      values[position] = measure(row, position);
    }
    return values;
  }

  /** A token for each wanted position, -1 at others: asked again, the same. */
  async tokensAt(wanted) {
    const { sampling } = this.draw;
    const temperature = tokens.temperatureAt(sampling, this.written);
    const used = sampling.repetition_penalty > 1 ? new Set(this.ids) : new Set();
    return this.table(wanted, (logits, position) => {
      tokens.penalise(logits, used, sampling.repetition_penalty);
      const [, high, low] = this.draw.words(this.step, position);
      return tokens.drawToken(logits, draws.pairToUnit(high, low), temperature, sampling);
    }, -1);
  }

  /** A measure of what the network says at each masked position. */
  async score(measure) {
    const comeLast = this.draw.sampling.ends === "last";
    const { endId } = this.draw;
    return this.table(this.isMasked, (logits) => {
      return measure(logits) - (comeLast && tokens.wants(logits, endId) ? END_PENALTY : 0);
    }, -Infinity);
  }

  /** A uniform number for each position from one of its words: 0 to order them by, 3 for chances. */
  uniforms(word) {
    return Float64Array.from(this.ids, (_, position) => draws.toUnit(this.draw.words(this.step, position)[word]));
  }

  best(score, wanted) {
    return { opened: choose(score, this.isMasked, wanted) };
  }

  /** Open what a rule allows, at most `most_per_step`, but no fewer than the grid would: steps must suffice. */
  atLeastAtPace(score, allowed) {
    const most = this.draw.sampling.most_per_step ?? Infinity;
    return this.best(score, Math.max(Math.min(allowed, most), this.count));
  }
}

export function count(flags) {
  return flags.reduce((sum, flag) => sum + flag, 0);
}

export function indices(flags) {
  return [...flags.keys()].filter((position) => flags[position]);
}

/** What is masked after this share of the steps. */
export function maskedShare(grid, progress) {
  return grid === "cosine" && progress < 1 ? Math.cos((Math.PI / 2) * progress) : 1 - progress;
}

/** The masked positions with the largest scores, so many; ties go to the lower position. */
function choose(score, isMasked, wanted) {
  const order = indices(isMasked).sort((a, b) => (score[a] < score[b] ? 1 : score[a] > score[b] ? -1 : a - b));
  const chosen = new Uint8Array(isMasked.length);
  for (const position of order.slice(0, wanted)) chosen[position] = 1;
  return chosen;
}

async function byThreshold(view) {
  const score = await view.score(tokens.logOdds);
  const least = view.draw.sampling.threshold ?? 0.9;
  return view.atLeastAtPace(score, count(score.map((value) => value >= Math.log(least / (1 - least)))));
}

/** The most positions, lowest entropies first, whose entropies but for the largest sum to at most the bound. */
async function byEntropyBound(view) {
  const score = await view.score(tokens.certainty);
  const bound = view.draw.sampling.entropy_bound ?? 0.5;
  const ordered = Float64Array.from(indices(view.isMasked), (position) => -score[position]).sort();
  let [allowed, sum] = [0, 0];
  for (const value of ordered.map((nats) => Math.max(nats, 0))) {
    sum += value;
    if (sum - value <= bound) allowed += 1;
  }
  return view.atLeastAtPace(score, allowed);
}

/** The open share before and after the step. */
function openShares(view) {
  const moments = [0, 1].map((ahead) => Math.min(1, (view.taken + ahead) / view.steps));
  return moments.map((moment) => 1 - maskedShare(view.draw.sampling.grid, moment));
}

/** The open share at time 1 - share of ReMDM's loop. */
function looped(share) {
  const t = 1 - share;
  if (t > LOOP_ON) return (LOOP_ALPHA * (1 - t)) / (1 - LOOP_ON);
  return t < LOOP_OFF ? 1 - ((1 - LOOP_ALPHA) * t) / LOOP_OFF : LOOP_ALPHA;
}

function mostRemasked(before, after) {
  return before ? Math.min(1, (1 - after) / before) : 1;
}

/** Open and mask again with the probabilities under which a share `after` is open afterwards. */
function exchange(view, before, after, share) {
  const toOpen = (after - (1 - share) * before) / (1 - before);
  const [order, chance] = [view.uniforms(0), view.uniforms(3)];
  return {
    opened: view.isMasked.map((isMasked, at) => isMasked && order[at] < toOpen),
    remasked: view.isFree.map((isFree, at) => isFree && !view.isMasked[at] && chance[at] < share),
  };
}

function remdmCap(view) {
  const [before, after] = openShares(view);
  const share = view.draw.sampling.remask_share ?? 0.02;
  return exchange(view, before, after, Math.min(mostRemasked(before, after), share));
}

function remdmRescale(view) {
  const [before, after] = openShares(view);
  return exchange(view, before, after, mostRemasked(before, after) * (view.draw.sampling.remask_share ?? 0.1));
}

function remdmLoop(view) {
  const [before, after] = openShares(view).map(looped);
  const isInLoop = before === after && after === LOOP_ALPHA;
  const share = Math.min(mostRemasked(before, after), view.draw.sampling.remask_share ?? 0.02);
  return exchange(view, before, after, isInLoop ? share : 0);
}

/** Draw every position anew, also written ones, and keep the likeliest draws, as many as the grid says. */
async function revise(view) {
  const drawn = await view.tokensAt(view.isFree);
  const likelihood = await view.table(view.isFree, (logits, at) => tokens.probability(logits, drawn[at]));
  const kept = choose(likelihood, view.isFree, count(view.isFree) - view.left + view.count);
  return { opened: kept, remasked: view.isFree.map((isFree, at) => isFree && !kept[at]) };
}

export const POLICIES = {
  random: (view) => view.best(view.uniforms(0), view.count),
  first_hitting: (view) => view.best(view.uniforms(0), 1),
  left_to_right: (view) => view.best(view.ids.map((_, position) => -position), view.count),
  confidence: async (view) => view.best(await view.score(tokens.logOdds), view.count),
  margin: async (view) => view.best(await view.score(tokens.margin), view.count),
  entropy: async (view) => view.best(await view.score(tokens.certainty), view.count),
  threshold: byThreshold,
  entropy_bound: byEntropyBound,
  remdm_cap: remdmCap,
  remdm_rescale: remdmRescale,
  remdm_loop: remdmLoop,
  revise,
};

/** Policies that may mask again what is written: they take all their steps. */
export const REWRITING = new Set(["remdm_cap", "remdm_rescale", "remdm_loop", "revise"]);
