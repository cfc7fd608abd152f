// A text from beginning to end: drafts, denoising, and frames to look at. ddlm/generation for one text.

import { keepBest } from "./bound.js";
import { canvasOf, gapped, hasGap, prompted, textLength } from "./drafts.js";
import { denoise } from "./sampler.js";
import { Draw } from "./unmasking.js";

const MASK_SIGN = "█";

/** Of what is to be written the share that is, 0 … 1. */
function shareOf(states) {
  const masked = states.filter((state) => state === "masked").length;
  const written = states.filter((state) => state === "shown" || state === "new").length;
  return masked ? written / (written + masked) : 1;
}

/** A network, its tokenizer, and settings.json, which says what it is. */
export class Writer {
  constructor(about, tokenizer, network) {
    Object.assign(this, { about, tokenizer, network });
    this.startsOfWords = tokenizer.wordStarts(about.vocab_size);
  }

  /** Drafts of the text: one, or one for each length that its gaps may have. Throws InputError. */
  drafts(text, length) {
    if (hasGap(text)) return gapped(this.about, this.tokenizer, text);
    return [prompted(this.about, this.tokenizer, text, length)];
  }

  /** Yields frames; the last one has the finished text. wanted: { text, sampling, seed, length }. */
  async *write(wanted) {
    const drafts = this.drafts(wanted.text, wanted.length);
    const finished = [];
    for (const [trial, draft] of drafts.entries()) {
      let last = this.frame(draft, canvasOf(this.about, draft), null);
      for await (const frame of this.frames(draft, wanted)) {
        last = frame;
        yield { ...frame, trial, trials: drafts.length };
      }
      finished.push({ draft, frame: last });
    }
    if (drafts.length > 1) yield await this.kept(finished);
  }

  async kept(finished) {
    const candidates = finished.map(({ draft, frame }) => ({ canvas: canvasOf(this.about, draft), ids: frame.ids }));
    const { frame } = finished[await keepBest(this.about, this.network, candidates)];
    return { ...frame, states: frame.states.map((state) => (state === "new" ? "shown" : state)), isKept: true };
  }

  async *frames(draft, { sampling, seed }) {
    const start = canvasOf(this.about, draft);
    yield this.frame(draft, start, null);
    const draw = this.draw(draft, sampling, seed);
    for await (const step of denoise(this.network, start, draw)) yield this.frame(draft, step.ids, step);
  }

  draw({ isExact, isClosed, wordStarts }, sampling, seed) {
    const { end_id: endId, mask_id: maskId, forbidden, stop_ids } = this.about;
    return new Draw({
      sampling, seed, endId, maskId,
      forbidden: [...forbidden, ...(isExact || isClosed ? stop_ids : [])],
      startsWord: new Set(wordStarts), wordStarts: this.startsOfWords,
    });
  }

  /** What people see. texts, states: of each shown position what it says, and prompt, shown, new or masked. */
  frame(draft, ids, step) {
    const length = textLength(this.about, draft, ids);
    const last = length === draft.given.length ? length - draft.hiddenBehind : length;
    const shown = Array.from(ids.slice(draft.hidden, last));
    const states = shown.map((id, index) => this.state(draft, id, index + draft.hidden, step));
    const texts = this.texts(shown);
    return {
      ids: Array.from(ids), texts, states, text: this.text(draft, texts, states),
      step: step?.step ?? 0, mostSteps: step?.mostSteps ?? null,
      share: shareOf(states),
    };
  }

  /** Each mask as one sign. In a chat the line break before a turn's end is no part of it. */
  text({ isClosed }, texts, states) {
    const text = texts.map((piece, at) => (states[at] === "masked" ? MASK_SIGN : piece)).join("");
    return this.about.suffix.length && !isClosed ? text.replace(/\n$/, "") : text;
  }

  state({ given }, id, position, step) {
    if (id === this.about.mask_id) return "masked";
    if (position < given.length && given[position] !== this.about.mask_id) return "prompt";
    return step && step.before[position] !== id ? "new" : "shown";
  }

  /** What each id says; a run between masks is read as one. */
  texts(ids) {
    const texts = [];
    let run = [];
    const readRun = () => {
      texts.push(...this.tokenizer.pieces(run));
      run = [];
    };
    for (const id of ids) {
      if (id !== this.about.mask_id) run.push(id);
      else {
        readRun();
        texts.push("");
      }
    }
    readRun();
    return texts;
  }
}
