// The settings as controls, each with a sentence of help; and what they come to.

import { InputError } from "./tokenizer.js";

const OF_ONE_DRAW = new Set(["temperature", "top_p", "top_k", "repetition_penalty", "length", "seed"]);

/** Of each setting what it may be. Without `needed` it may be left empty. What it is called, and a sentence on it or on
 * each of its choices, are in settings.json, or here where only this page has the setting. */
function table({ seq_len }) {
  return [
    { name: "unmasking" },
    { name: "num_sampling_steps", min: 1, max: 4096, step: 1, needed: true },
    { name: "threshold", above: 0, below: 1 },
    { name: "entropy_bound", min: 0 },
    { name: "most_per_step", min: 1, step: 1 },
    { name: "remask_share", above: 0, max: 1 },
    { name: "temperature", min: 0, max: 100, needed: true },
    { name: "top_p", above: 0, max: 1, needed: true },
    { name: "top_k", min: 1, step: 1 },
    { name: "repetition_penalty", min: 1, max: 100, needed: true },
    { name: "ends" },
    { name: "grid" },
    { name: "length", label: "Length", min: 1, max: seq_len - 1, step: 1, help: "Tokens to write after the beginning, exactly; the model decides when empty." },
    { name: "seed", label: "Seed", min: 0, isSeed: true, needed: true, help: "The same seed and settings write the same text again on this page. Python writes another, since this page rounds the weights to int8." },
    { name: "fresh", label: "New seed for each text", isSwitch: true, help: "Otherwise the seed stays as it is." },
  ];
}

export class Controls {
  /** about: settings.json. Fills the element. */
  constructor(element, about) {
    this.about = about;
    const isShown = ({ name }) => !about.is_autoregressive || OF_ONE_DRAW.has(name) || name === "fresh";
    this.rows = table(about).filter(isShown).map((row) => withWords(row, about.words)).map((row) => ({ ...row, ...built(row) }));
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

function withWords(row, { labels, help, choices, usual, others }) {
  const { [row.name]: options } = choices;
  const groups = options && row.name === "unmasking" ? { usual, others } : null;
  return { ...row, label: row.label ?? labels[row.name], help: row.help ?? help[row.name], options, groups };
}

function built({ name, label, options, groups, isSwitch, isSeed, help = "" }) {
  const input = options ? choice(Object.keys(options), groups) : made("input", { type: isSwitch ? "checkbox" : "text" });
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

/** A list of names; those that are not among the usual ones stand below a heading. */
function choice(names, groups) {
  const select = made("select", {});
  const option = (value) => made("option", { value, textContent: value.replaceAll("_", " ") });
  if (!groups) {
    select.append(...names.map(option));
    return select;
  }
  const others = made("optgroup", { label: groups.others });
  others.append(...names.filter((name) => !groups.usual.includes(name)).map(option));
  select.append(...groups.usual.map(option), others);
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
  if (isSeed && /^\d{1,40}$/.test(text)) return BigInt(text);
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
