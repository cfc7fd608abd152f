// The settings as controls, each with a sentence of help; and what they come to.

import { InputError } from "./tokenizer.js";

const ORDERS = {
  random: "Places in a random order.",
  first_hitting: "One place a step in a random order, however many steps there are.",
  left_to_right: "From left to right, as other models write.",
  confidence: "First where the likeliest word is most certain.",
  margin: "First where the likeliest word is furthest ahead of the next.",
  entropy: "First where the fewest words come into question.",
  threshold: "Every place at once whose likeliest word is certain enough.",
  entropy_bound: "As many places at once as hardly depend on each other.",
  remdm_cap: "Writes, and now and then blanks a word again.",
  remdm_rescale: "Writes, and blanks words again as often as the process allows.",
  remdm_loop: "Writes most of it, revises for a long while, then finishes.",
  revise: "Draws every word anew at each step and keeps the likeliest.",
};
const ENDS = {
  drawn: "The model says at the start where the text may end, and one draw decides.",
  last: "The end is written when nothing else is left.",
  free: "An end is a word like any other.",
};
const GRIDS = { linear: "Equally many words in each step.", cosine: "Few words at first, more later." };
const OF_ONE_DRAW = new Set(["temperature", "top_p", "top_k", "repetition_penalty", "length", "seed"]);

/** Of each setting its name on the page, what it may be, and a sentence. Without `needed` it may be left empty. */
function table({ seq_len }) {
  return [
    { name: "unmasking", label: "Order", options: ORDERS },
    { name: "num_sampling_steps", label: "Steps", min: 1, max: 4096, step: 1, needed: true, help: "Fewer are faster, more write better." },
    { name: "threshold", label: "Certain enough", above: 0, below: 1, help: "The probability from which a place is written; 0.9 when empty." },
    { name: "entropy_bound", label: "Bound", min: 0, help: "Nats that places of one step may depend on each other; 0.5 when empty." },
    { name: "most_per_step", label: "At most a step", min: 1, step: 1, help: "Places that one step writes at most." },
    { name: "remask_share", label: "Blanked again", above: 0, max: 1, help: "The share of words that a step blanks again, at most." },
    { name: "temperature", label: "Temperature", min: 0, needed: true, help: "0 takes the likeliest word, more is bolder." },
    { name: "top_p", label: "Top-p", above: 0, max: 1, needed: true, help: "Draws from the likeliest words of this mass; 1 from all." },
    { name: "top_k", label: "Top-k", min: 1, step: 1, help: "Draws from so many of the likeliest words." },
    { name: "repetition_penalty", label: "Repetition penalty", min: 1, needed: true, help: "More makes words rarer that the text has already." },
    { name: "ends", label: "Where it ends", options: ENDS },
    { name: "grid", label: "Pace", options: GRIDS },
    { name: "length", label: "Length", min: 1, max: seq_len - 1, step: 1, help: "Writes exactly so many tokens; empty, the model decides." },
    { name: "seed", label: "Seed", isSeed: true, needed: true, help: "The same seed and settings write the same text on this page; Python's weights are not rounded, and write others." },
    { name: "fresh", label: "New seed for each text", isSwitch: true, help: "Otherwise the seed stays as it is." },
  ];
}

export class Controls {
  /** about: settings.json. Fills the element. */
  constructor(element, about) {
    this.about = about;
    const isShown = ({ name }) => !about.is_autoregressive || OF_ONE_DRAW.has(name) || name === "fresh";
    this.rows = table(about).filter(isShown).map((row) => ({ ...row, ...built(row) }));
    element.replaceChildren(...this.rows.map((row) => row.element));
    this.set({ ...about.sampling, seed: "0", fresh: true });
    element.addEventListener("change", () => this.refresh());
  }

  /** Put values into the controls; null empties one. */
  set(values) {
    for (const { name, input, isSwitch } of this.rows) {
      if (!(name in values)) continue;
      if (isSwitch) input.checked = values[name];
      else input.value = values[name] ?? "";
    }
    this.refresh();
  }

  /** Sentences for what is chosen; settings of other orders are hidden. */
  refresh() {
    for (const { name, options, input, help, element } of this.rows) {
      if (options) help.textContent = options[input.value];
      const owners = this.about.parameters_of[name];
      element.hidden = owners ? !owners.includes(this.row("unmasking")?.input.value) : false;
    }
  }

  row(name) {
    return this.rows.find((row) => row.name === name);
  }

  newSeed() {
    if (!this.row("fresh").input.checked) return;
    this.row("seed").input.value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
  }

  /** { sampling, seed, length }. Throws InputError for the first value that can't be, and puts the cursor there. */
  read() {
    const values = {};
    for (const row of this.rows) if (!row.isSwitch) values[row.name] = row.element.hidden ? null : valueOf(row);
    const { seed, length, ...sampling } = values;
    return { sampling: { ...this.about.sampling, ...sampling }, seed, length };
  }
}

function built({ name, label, options, isSwitch, isSeed, help = "" }) {
  const input = options ? choice(options) : made("input", { type: isSwitch ? "checkbox" : "text" });
  if (!options && !isSwitch) Object.assign(input, { inputMode: isSeed ? "numeric" : "decimal", autocomplete: "off" });
  Object.assign(input, { id: `control-${name}`, name });
  input.setAttribute("aria-describedby", `help-${name}`);
  input.setAttribute("form", "desk");
  const sentence = made("p", { className: "help", id: `help-${name}`, textContent: help });
  const row = made("div", { className: "row" });
  row.append(made("label", { htmlFor: input.id, textContent: label }), input);
  const element = made("div", { className: "control" });
  element.append(row, sentence);
  return { element, input, help: sentence };
}

function choice(options) {
  const select = made("select", {});
  const title = (value) => value.replaceAll("_", " ");
  select.append(...Object.keys(options).map((value) => made("option", { value, textContent: title(value) })));
  return select;
}

export function made(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function valueOf(row) {
  const { input, options, isSeed, needed } = row;
  const text = input.value.trim();
  if (options) return text;
  if (!text && !needed) return null;
  const isWhole = isSeed || row.step === 1;
  if (isSeed && /^[+-]?\d{1,40}$/.test(text)) return BigInt(text);
  const value = text && !isSeed ? Number(text) : NaN;
  if (isWithin(value, row) && (!isWhole || Number.isInteger(value))) return value;
  input.focus();
  throw new InputError(`${row.label}: got ${JSON.stringify(text)}, wanted ${wanted(row, isWhole)}`);
}

function isWithin(value, { min = -Infinity, max = Infinity, above = -Infinity, below = Infinity }) {
  return Number.isFinite(value) && value >= min && value <= max && value > above && value < below;
}

function wanted({ min, max, above, below }, isWhole) {
  const bounds = [
    min !== undefined && `at least ${min}`, above !== undefined && `more than ${above}`,
    max !== undefined && `at most ${max}`, below !== undefined && `less than ${below}`,
  ].filter(Boolean);
  return [isWhole ? "a whole number" : "a number", bounds.join(" and ")].filter(Boolean).join(", ");
}
