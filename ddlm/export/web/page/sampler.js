// The reverse process: a canvas with masks in, the canvas after each step out. ddlm/export/runtime/sampler.py.
// network: Int32Array of ids to a promise of the logits, Float32Array, position after position.

import * as draws from "./draws.js";
import * as tokens from "./tokens.js";
import { POLICIES, REWRITING, View, count, indices, maskedShare } from "./unmasking.js";

/** Yields { ids, before, step, mostSteps } after each step, until no position is masked: the canvas after and before
 * it, how many steps were taken, and how many there are at most. */
export async function* denoise(network, start, draw) {
  const canvas = new Canvas(Int32Array.from(start), draw);
  for (const [first, last] of windows(start.length, draw.sampling.block_size)) {
    canvas.enter(first, last);
    while (canvas.isUnfinished()) yield await canvas.advance(network);
  }
}

function windows(length, blockSize) {
  const size = blockSize ?? length;
  const count = Math.ceil(length / size);
  return Array.from({ length: count }, (_, block) => [block * size, Math.min((block + 1) * size, length)]);
}

/** isFree: positions that the row fills. inside: those of the window that is being written. step, taken: the steps
 * that the row took, and that it took in the window, of `steps`. mayEnd: whether the text's end is yet to be drawn. */
class Canvas {
  constructor(start, draw) {
    Object.assign(this, { ids: start, draw, step: 0 });
    this.isFree = Uint8Array.from(start, (id) => id === draw.maskId);
    this.rewrites = REWRITING.has(draw.sampling.unmasking);
    this.endIsAllowed = !draw.forbidden.includes(draw.endId);
    this.mayBeOver = draw.sampling.ends !== "drawn" && this.endIsAllowed && !this.rewrites;
  }

  enter(first, last) {
    this.inside = this.isFree.map((isFree, at) => isFree && at >= first && at < last);
    this.steps = numSteps(this.draw.sampling, count(this.inside), count(this.isFree));
    this.taken = 0;
    this.mayEnd = this.draw.sampling.ends === "drawn" && this.endIsAllowed;
  }

  isUnfinished() {
    return this.rewrites ? this.taken < this.steps : count(this.masked(this.inside)) > 0;
  }

  async advance(network) {
    let seen;
    const look = () => (seen ??= network(this.ids));
    if (this.mayEnd) await this.endText(this.view(look));
    const view = this.view(look);
    const move = await POLICIES[this.draw.sampling.unmasking](view);
    const before = this.ids;
    this.ids = await written(view, move);
    if (this.mayBeOver) this.closeText();
    this.step += 1;
    this.taken += 1;
    return { ids: this.ids, before, step: this.step, mostSteps: this.step + this.stepsLeft() };
  }

  stepsLeft() {
    return this.isUnfinished() ? this.steps - this.taken : 0;
  }

  masked(among) {
    return among.map((isAmong, at) => isAmong && this.ids[at] === this.draw.maskId);
  }

  view(look) {
    const { sampling } = this.draw;
    const isMasked = this.masked(this.inside);
    const [remaining, all] = [count(this.masked(this.isFree)), count(this.isFree)];
    return new View({
      look, ids: this.ids, isFree: this.inside, isMasked, draw: this.draw,
      mayEnd: sampling.ends !== "drawn" || this.mayEnd,
      step: this.step, steps: this.steps, taken: this.taken,
      count: toOpen(count(isMasked), this.steps, this.taken, sampling.grid),
      written: 1 - remaining / Math.max(1, all),
    });
  }

  /** Behind an end token before the first mask the text is over: end tokens fill the row, unasked for. */
  closeText() {
    const isMasked = this.masked(this.isFree);
    const firstMask = isMasked.indexOf(1);
    const end = this.ids.findIndex((id, at) => id === this.draw.endId && this.isFree[at]);
    if (end >= 0 && (firstMask < 0 || end < firstMask)) this.fill(isMasked);
  }

  /** Draw where the text ends, put end tokens from there on, and allow no others in the window. */
  async endText(view) {
    const behind = await ended(view);
    this.fill(this.masked(this.isFree).map((isMasked, at) => isMasked && behind[at]));
    this.inside = this.inside.map((isInside, at) => isInside && this.isFree[at]);
    this.mayEnd = false;
    if (!this.rewrites) this.steps = Math.min(this.steps, count(this.inside));
  }

  fill(places) {
    this.ids = this.ids.map((id, at) => (places[at] ? this.draw.endId : id));
    this.isFree = this.isFree.map((isFree, at) => isFree && !places[at]);
  }
}

/** How many steps a window takes at most to write so many positions, out of so many of the canvas. */
function numSteps({ unmasking, num_sampling_steps }, masks, all) {
  if (unmasking === "first_hitting") return masks;
  const share = Math.ceil((num_sampling_steps * masks) / Math.max(all, 1));
  return REWRITING.has(unmasking) ? share : Math.min(share, masks);
}

/** How many of `left` masks to open when `taken` of `steps` were taken: one at least, all at the last. */
function toOpen(left, steps, taken, grid) {
  if (taken + 1 >= steps) return left;
  const [before, after] = [0, 1].map((ahead) => maskedShare(grid, (taken + ahead) / steps));
  return left ? Math.max(1, left - Math.floor((left * after) / before + 1e-9)) : 0;
}

/** The ids after the move. */
async function written(view, { opened, remasked }) {
  const ids = view.ids.map((id, at) => (remasked?.[at] ? view.draw.maskId : id));
  if (!count(opened)) return ids;
  const drawn = await view.tokensAt(opened);
  for (const position of indices(opened)) ids[position] = drawn[position];
  return ids;
}

/** Which positions lie behind the drawn end of the text, in the window and after it.
 *
 * What the model says of the end token at a position is the probability that the text is over by there, at most: a text
 * that is over stays over. One uniform number picks the place, behind the last position that is not over with it; at
 * temperature 0 it is the median. A text that begins here is not empty.
 */
async function ended(view) {
  const { draw, step, isMasked } = view;
  const over = await view.table(isMasked, (logits) => tokens.probability(logits, draw.endId));
  const [, high, low] = draw.words(step, draws.WHOLE_ROW);
  const uniform = draw.sampling.temperature ? draws.pairToUnit(high, low) : 0.5;
  const asked = indices(isMasked);
  const least = isMasked[0] ? Math.min(...asked.map((at) => over[at])) : 0;
  const number = least + uniform * (1 - least);
  const lastOpen = asked.findLast((at) => over[at] <= number) ?? -1;
  return isMasked.map((_, at) => at > lastOpen && lastOpen < asked.at(-1));
}
