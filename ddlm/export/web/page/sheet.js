// The story on its sheet: a span for each token, the counts, and a slider over everything that was seen.

import { made } from "./controls.js";
import { BLANK, withGaps } from "./copying.js";

const REPLAY_MS = 90;

/** White space before a word, which no colour is for, and the word. */
function emptySpan() {
  const span = made("span", {});
  span.append("", made("span", { className: "ink" }));
  return span;
}

export class Sheet {
  constructor(elements) {
    Object.assign(this, elements);
    this.frames = [];
    this.goesOn = false;
    this.timer = null;
    this.moment.addEventListener("input", () => this.show(Number(this.moment.value)));
    this.replay.addEventListener("click", () => (this.timer ? this.rest() : this.play()));
  }

  clear(placeholder) {
    this.rest();
    this.frames = [];
    this.goesOn = false;
    this.spans = [];
    this.story.replaceChildren(...(placeholder ? [made("p", { className: "waiting", textContent: placeholder })] : []));
    this.history.hidden = true;
    this.moment.max = 0;
    this.setCounts(null);
  }

  /** A new state; it is shown unless somebody looks at an older one. */
  add(frame) {
    const follows = Number(this.moment.value) >= this.frames.length - 1;
    this.frames.push(frame);
    this.moment.max = this.frames.length - 1;
    this.history.hidden = false;
    if (follows) this.show(this.frames.length - 1);
  }

  /** The text fills the canvas without having come to its end: its last state says so. */
  cutOff() {
    this.goesOn = true;
    this.show(Number(this.moment.value));
  }

  show(number) {
    const frame = this.frames[number];
    this.moment.value = number;
    this.moment.setAttribute("aria-valuetext", this.sentence(frame));
    this.story.classList.toggle("still", number < this.frames.length - 1 && !this.timer);
    this.story.classList.toggle("goes-on", this.goesOn && number === this.frames.length - 1);
    this.fit(frame.texts.length);
    frame.texts.forEach((text, at) => this.put(at, text, frame.states[at]));
    this.setCounts(frame);
  }

  fit(size) {
    while (this.spans.length > size) this.spans.pop().remove();
    const missing = Array.from({ length: size - this.spans.length }, emptySpan);
    this.spans.push(...missing);
    this.story.append(...missing);
  }

  /** A token that is new shows it for a while, also when the next ones have come. */
  put(at, text, state) {
    const span = this.spans[at];
    if (span.textContent !== text) {
      const [space] = text.match(/^\s*/);
      span.firstChild.data = space;
      span.lastChild.textContent = text.slice(space.length);
    }
    const isFading = state === "shown" && span.className === "new" && this.isMoving();
    if (span.className !== state && !isFading) span.className = state;
  }

  isMoving() {
    return !this.story.classList.contains("still") && matchMedia("(prefers-reduced-motion: no-preference)").matches;
  }

  setCounts(frame) {
    this.progress.value = frame?.share ?? 0;
    this.counts.textContent = frame ? this.sentence(frame) : "\u00a0";
  }

  sentence(frame) {
    const trial = frame.trials > 1 && !frame.isKept ? `gap lengths ${frame.trial + 1} of ${frame.trials}` : "";
    const step = frame.isKept ? "the likeliest filling" : `step ${frame.step} of ${frame.mostSteps ?? "…"}`;
    const speed = frame.tokensPerS ? `${Math.round(frame.tokensPerS)} tokens a second` : "";
    return [trial, step, `${Math.floor(100 * frame.share)} % written`, speed].filter(Boolean).join(" · ");
  }

  play() {
    let number = 0;
    this.replay.textContent = "Pause";
    this.timer = setInterval(() => {
      this.show(number++);
      if (number >= this.frames.length) this.rest();
    }, REPLAY_MS);
  }

  rest() {
    clearInterval(this.timer);
    this.timer = null;
    this.replay.textContent = "Replay";
  }

  get frame() {
    return this.frames.at(Number(this.moment.value));
  }

  get text() {
    return this.frame?.text ?? "";
  }

  /** The text to copy, with a gap for what is blank in it. */
  get copy() {
    if (!this.frame?.states.includes("masked")) return this.text;
    return withGaps(this.frame.texts.map((text, at) => (this.frame.states[at] === "masked" ? BLANK : text)).join(""));
  }
}
