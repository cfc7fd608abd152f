"""The settings of `[sampling]` in plain words: what both pages call them, and a sentence on each."""

from typing import Any

ORDERS = {
    "random": "Places in a random order.",
    "left_to_right": "From left to right, as other models write.",
    "confidence": "First where the likeliest word is most certain.",
    "first_hitting": "One place a step in a random order, however many steps there are.",
    "margin": "First where the likeliest word is furthest ahead of the next.",
    "entropy": "First where the fewest words come into question.",
    "threshold": "Every place at once whose likeliest word is certain enough; with few steps, the same as confidence.",
    "entropy_bound": "As many places at once as hardly depend on each other; with few steps, the same as entropy.",
    "remdm_cap": "Writes, and now and then blanks a word again.",
    "remdm_rescale": "Writes, and blanks words again as often as the process allows.",
    "remdm_loop": "Writes most of it, revises for a long while, then finishes.",
    "revise": "Draws every word anew at each step and keeps the likeliest.",
}
"""In the order of the lists."""
USUAL = ("random", "left_to_right", "confidence")
"""The orders that are offered first; the others are marked as experimental."""
CHOICES = {
    "unmasking": ORDERS,
    "ends": {
        "drawn": "The model says at the start where the text may end, and one draw decides.",
        "last": "The end is written when nothing else is left.",
        "free": "An end is a word like any other.",
    },
    "grid": {"linear": "Equally many words in each step.", "cosine": "Few words at first, more later."},
    "cache": {
        "exact": "With blocks: what was computed for other blocks is used again where that changes nothing.",
        "approximate": "With blocks: it is used again everywhere, which is faster and gives another text.",
        "off": "Everything is computed again.",
    },
    "temperature_schedule": {"linear": "It moves evenly.", "cosine": "It moves slowly at both ends."},
}
"""Of each setting that is one of several, what each of them does."""
LABELS = {
    "unmasking": "Order",
    "num_sampling_steps": "Steps",
    "temperature": "Temperature",
    "threshold": "Certain enough",
    "entropy_bound": "Bound",
    "most_per_step": "At most a step",
    "remask_share": "Blanked again",
    "top_p": "Top-p",
    "top_k": "Top-k",
    "repetition_penalty": "Repetition penalty",
    "ends": "Where a text ends",
    "grid": "Pace",
    "block_size": "Block size",
    "cache": "Reuse between blocks",
    "final_temperature": "Final temperature",
    "temperature_schedule": "Way to it",
}
"""In the order of the pages."""
HELP = {
    "num_sampling_steps": "Fewer are faster, more write better.",
    "temperature": "0 takes the likeliest word, more is bolder.",
    "threshold": "The probability from which a place is written; 0.9 when empty.",
    "entropy_bound": "Nats that places of one step may depend on each other; 0.5 when empty.",
    "most_per_step": "Places that one step writes at most.",
    "remask_share": "The share of words that a step blanks again, at most.",
    "top_p": "Draws from the likeliest words that together have this probability; 1 from all.",
    "top_k": "Draws from this many of the likeliest words; from all when empty.",
    "repetition_penalty": "More makes words rarer that the text has already; 1 is none.",
    "block_size": "Writes blocks of this many tokens from left to right; the whole text at once when empty.",
    "final_temperature": "The temperature moves to this one while a text is written; it stays when empty.",
}
NOT_PLAIN = "experimental"
"""What marks an order that is not among the usual ones."""


def title(choice: str) -> str:
    """A choice as people read it."""
    return choice.replace("_", " ")


def for_pages() -> dict[str, Any]:
    """All of it, for the page that runs in a browser."""
    return {"labels": LABELS, "help": HELP, "choices": CHOICES, "usual": USUAL, "others": NOT_PLAIN}
