// What is copied of a text that is not finished: its blanks become gaps, as the page takes them.

/** Stands for a blank in a text that is to be copied. */
export const BLANK = "\0";

const SPACE = "[\\s\\x1c-\\x1f\\x85]"; // as Python sees it

/** Blanks next to each other are one gap, with white space around it where there are words. */
export function withGaps(text) {
  const gap = new RegExp(`(${SPACE}*)${BLANK}(?:${SPACE}*${BLANK})*(${SPACE}*)`, "g");
  return text.replace(gap, (run, before, after, at) => {
    const isFirst = at === 0;
    const meetsWord = /[\p{L}\p{N}]/u.test(text[at + run.length] ?? "");
    return `${before || (isFirst ? "" : " ")}___${after || (meetsWord ? " " : "")}`;
  });
}
