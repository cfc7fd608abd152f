// Texts before they are written: a prompt, or a text with gaps, as ids with masks. ddlm/generation/drafts.py.

import { InputError } from "./tokenizer.js";

const GAP = /_{3,}(?:\[(\d+)\])?/g;

export function hasGap(text) {
  return text.search(GAP) >= 0;
}

/** A draft: given, the ids that stand before the masks, or masks in between; masks, how many to write behind them;
 * isExact, write all of them; isClosed, nothing follows but the end; hidden, hiddenBehind, ids at the ends that are not
 * shown; wordStarts, positions whose token begins a word. */
function draft(fields) {
  return { masks: 0, isExact: false, isClosed: false, hiddenBehind: 0, wordStarts: [], ...fields };
}

/** A text that begins with the prompt. length: how many tokens to write; null and the model decides.
 * Throws InputError when there is no room. */
export function prompted(about, tokenizer, prompt, length) {
  const [begun, isEnded] = beforeAWord(tokenizer, prompt);
  const ids = tokenizer.encode(begun);
  const given = [...about.prefix, ...ids];
  const room = about.seq_len - given.length;
  const most = about.seq_len - about.prefix.length - 1;
  if (room < 1) {
    const sizes = `the prompt has ${ids.length} tokens, but the model writes ${about.seq_len} in all`;
    throw new InputError(`${sizes}; shorten it to at most ${most} tokens`);
  }
  if (length !== null && length > room) {
    throw new InputError(`length ${length}: there is room for 1 to ${room} tokens after this prompt; change one of them`);
  }
  const wordStarts = isEnded ? [given.length] : [];
  return draft({ given, masks: length ?? room, isExact: length !== null, hidden: about.prefix.length, wordStarts });
}

/** The text without its last space, and whether it had one: a token carries the space before its word. */
function beforeAWord(tokenizer, text) {
  const isEnded = tokenizer.kind === "bpe" && text.endsWith(" ");
  return [isEnded ? text.slice(0, -1) : text, isEnded];
}

/** The text with masks in its gaps; with gaps of unknown length several drafts, each with other lengths.
 * Throws InputError when the text is too long. */
export function gapped(about, tokenizer, text) {
  const gaps = [...text.matchAll(GAP)];
  const foul = gaps.find(([, length]) => length !== undefined && !(length >= 1 && length < about.seq_len));
  if (foul) throw new InputError(`a gap ${foul[0]}: ___[1] to ___[${about.seq_len - 1}] is what the model holds`);
  const odd = text.match(/_{3,}\[(?!\d+\])[^\]\s]{0,20}\]/);
  if (odd) throw new InputError(`a gap ${odd[0]}: wanted a number of tokens, as in ___[5], or ___ alone`);
  const isKnown = gaps.every(([, length]) => length !== undefined);
  const turns = isKnown ? [0] : about.gap_lengths.map((_, turn) => turn);
  const drafts = turns.map((turn) => withGaps(about, tokenizer, text, gaps, turn));
  const fitting = drafts.filter(({ given }) => given.length < about.seq_len);
  if (fitting.length) return fitting;
  const shortest = Math.min(...drafts.map(({ given }) => given.length)) + 1;
  throw new InputError(`${shortest} tokens with gaps, but the model takes ${about.seq_len}; shorten the text`);
}

function withGaps(about, tokenizer, text, gaps, turn) {
  const [given, wordStarts] = [[...about.prefix], []];
  let position = 0;
  gaps.forEach((gap, index) => {
    const [before, isEnded] = beforeAWord(tokenizer, text.slice(position, gap.index));
    given.push(...tokenizer.encode(before));
    if (isEnded) wordStarts.push(given.length);
    const known = gap[1] === undefined ? null : Number(gap[1]);
    const length = known ?? about.gap_lengths[(turn + index) % about.gap_lengths.length];
    given.push(...Array(length).fill(about.mask_id));
    position = gap.index + gap[0].length;
  });
  given.push(...tokenizer.encode(text.slice(position)), ...about.suffix);
  const hidden = { hidden: about.prefix.length, hiddenBehind: about.suffix.length };
  return draft({ given, isClosed: true, wordStarts, ...hidden });
}

/** The canvas that a draft begins with. */
export function canvasOf(about, { given, masks }) {
  const behind = about.seq_len - given.length - masks;
  return [...given, ...Array(masks).fill(about.mask_id), ...Array(behind).fill(about.end_id)];
}

/** How many ids of a canvas are the text: up to a token that ends it, if no mask stands before. */
export function textLength(about, { given, masks, isClosed }, ids) {
  const most = given.length + masks;
  if (isClosed) return most;
  for (let at = given.length; at < most; at++) {
    if (ids[at] === about.mask_id) return most;
    if (about.stop_ids.includes(ids[at])) return at;
  }
  return most;
}
