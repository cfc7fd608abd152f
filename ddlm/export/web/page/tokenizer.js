// Text to ids and back: byte-level BPE or characters, from tokenizer.json. ddlm/tokenizer.py; a special token's name
// typed into a text stays plain text.

/** What the user can mend, in one line. */
export class InputError extends Error {}

// GPT-2's pattern. White space is Unicode's here: JavaScript's \s has a character more and one less.
const PIECES = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const SPACE_SIGN = "Ġ";
const UNKNOWN = "<|unk|>";

/** The sign of each byte: itself where it prints, else one from 256 on. */
function byteSigns() {
  const isPrinted = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrinted(byte) ? byte : next++));
}

const SIGNS = byteSigns();
const BYTES = new Map(SIGNS.map((sign, byte) => [sign, byte]));

export class Tokenizer {
  /** file: tokenizer.json, parsed. kind: bpe or characters. */
  constructor(file, kind) {
    this.kind = kind;
    this.ids = new Map(Object.entries(file.model.vocab));
    this.texts = [];
    for (const [text, id] of this.ids) this.texts[id] = text;
    this.ranks = new Map(file.model.merges.map((merge, rank) => [[merge].flat().join(" "), rank]));
    const specials = file.added_tokens.filter((token) => token.special);
    this.specialIds = new Set(specials.map((token) => token.id));
    this.unknownId = this.ids.get(UNKNOWN) ?? null;
  }

  /** Throws InputError for characters that the tokenizer never saw, and for half a character. */
  encode(text) {
    if (/\p{Surrogate}/u.test(text)) throw new InputError("the text holds half a character; remove it and type it anew");
    return this.kind === "characters" ? this.encodeCharacters(text) : this.encodeBytes(text);
  }

  encodeCharacters(text) {
    const characters = [...text];
    const strange = new Set(characters.filter((character) => !this.ids.has(character)));
    if (strange.size && this.unknownId === null) {
      const shown = [...strange].slice(0, 20).join("");
      throw new InputError(`the tokenizer never saw the characters ${JSON.stringify(shown)}; leave them out`);
    }
    return characters.map((character) => this.ids.get(character) ?? this.unknownId);
  }

  encodeBytes(text) {
    const pieces = text.match(PIECES) ?? [];
    return pieces.flatMap((piece) => this.merge(Array.from(new TextEncoder().encode(piece), (byte) => SIGNS[byte])));
  }

  /** The ids of one piece: the pair of lowest rank is merged, wherever it stands, until none is left. */
  merge(parts) {
    let merged = parts;
    for (;;) {
      let [best, rank] = [null, Infinity];
      for (let at = 0; at + 1 < merged.length; at++) {
        const found = this.ranks.get(`${merged[at]} ${merged[at + 1]}`);
        if (found < rank) [best, rank] = [[merged[at], merged[at + 1]], found];
      }
      if (!best) return merged.map((part) => this.ids.get(part));
      merged = joined(merged, best);
    }
  }

  /** Of a run of ids the text that each adds. A character whose bytes are spread over tokens comes with its last one;
   * what is no whole character is a replacement sign. */
  pieces(ids) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const texts = Array.from(ids, (id) => this.piece(id, decoder));
    if (texts.length) texts[texts.length - 1] += decoder.decode();
    return texts;
  }

  piece(id, decoder) {
    if (this.specialIds.has(id)) return "";
    if (this.kind === "characters") return this.texts[id];
    return decoder.decode(Uint8Array.from(this.texts[id], (sign) => BYTES.get(sign)), { stream: true });
  }

  /** The text of ids; special tokens are dropped. */
  decode(ids) {
    return this.pieces(ids).join("");
  }

  /** For each id that the model can write, whether its text begins with a space. */
  wordStarts(vocabSize) {
    const space = this.kind === "bpe" ? SPACE_SIGN : " ";
    return Uint8Array.from({ length: vocabSize }, (_, id) => this.texts[id]?.startsWith(space) ?? false);
  }
}

function joined(parts, [left, right]) {
  const result = [];
  for (let at = 0; at < parts.length; at++) {
    const isPair = parts[at] === left && parts[at + 1] === right;
    result.push(isPair ? left + right : parts[at]);
    if (isPair) at++;
  }
  return result;
}
