"""What a corpus looks like, and what about it should make one look twice. Nothing here stops a run."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

LOOKED_AT = 5_000
"""Stories of a split whose text is looked at: the first ones."""
WORD = re.compile(r"\w+")
MOST_DROPPED = 0.1
"""Share of a split's rows that may be empty or repeated without a warning; a broken one always has one."""
MOST_FOREIGN = 0.2
"""Share of letters that may be of another script than most."""
MOST_DIFFERENT = 0.5
"""Total variation between the words of the two splits: 0 for equal texts, 1 for none in common. Two halves of one
corpus of some hundred stories are near 0.2."""
FEWEST_WORDS = 1_000
"""Fewer words of a split than that say nothing about another one."""


@dataclass
class Words:
    """What is counted of a split's first stories."""

    stories: int = 0
    of: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        if self.stories < LOOKED_AT:
            self.stories += 1
            self.of.update(word.lower() for word in WORD.findall(text))
            self.scripts.update(map(script_of, filter(str.isalpha, text)))

    def report(self) -> dict[str, Any]:
        """As it stands in report.json."""
        total = self.of.total()
        return {
            "stories": self.stories,
            "words_per_story": total / max(1, self.stories),
            "distinct_words": len(self.of),
            "script": next((name for name, _ in self.scripts.most_common(1)), None),
            "other_scripts": self.foreign(),
        }

    def foreign(self) -> float:
        """The share of letters that are of another script than most."""
        return 1 - max(self.scripts.values(), default=0) / max(1, self.scripts.total())


def script_of(letter: str) -> str:
    """`LATIN`, `CYRILLIC`, `CJK`: the first word of the letter's name."""
    return "LATIN" if letter.isascii() else unicodedata.name(letter, "UNNAMED").partition(" ")[0]


def total_variation(one: Counter[str], other: Counter[str]) -> float:
    """Half the sum of what the two distributions of words differ by, 0 … 1."""
    totals = max(1, one.total()), max(1, other.total())
    return sum(abs(one[word] / totals[0] - other[word] / totals[1]) for word in one.keys() | other.keys()) / 2


def objections(counts: Mapping[str, Mapping[str, int]], words: Mapping[str, Words]) -> Iterator[str]:
    """A line for everything that is unusual. counts: of each split read, its rows and those that were left out."""
    for split, counter in counts.items():
        dropped = sum(counter[name] for name in ("empty", "broken", "duplicates"))
        if counter["broken"] or dropped > MOST_DROPPED * counter["rows"]:
            yield (
                f"{dropped:,} of {counter['rows']:,} {split} rows were left out: {counter['empty']:,} empty, "
                f"{counter['broken']:,} broken, {counter['duplicates']:,} repeated"
            )
    for split, found in words.items():
        if found.foreign() > MOST_FOREIGN:
            shares = ((name.lower(), count / found.scripts.total()) for name, count in found.scripts.most_common(3))
            names = ", ".join(f"{name} {share:.0%}" for name, share in shares)
            yield f"the {split} stories mix scripts: {names}; several languages?"
    train, validation = words["train"].of, words["validation"].of
    apart = total_variation(train, validation)
    if apart > MOST_DIFFERENT and min(train.total(), validation.total()) >= FEWEST_WORDS:
        yield f"the splits use different words (total variation {apart:.2f}): are they of one source?"
