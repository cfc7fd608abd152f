"""Does the memory of packing grow with the corpus? Packs the same stories, repeated to 10 MB and to 1 GB of text.

python benchmarks/packing_memory.py [CONFIG] [MEGABYTES …]
"""

import json
import sys
import tempfile
from pathlib import Path

from ddlm.bench.tokenize import build_inputs, in_fresh_process, repeat_stories, time_packing
from ddlm.experiment import load_experiment


def main(config: str = "configs/tiny.toml", *megabytes: str) -> None:
    experiment = load_experiment(config)
    with tempfile.TemporaryDirectory() as name:
        inputs = build_inputs(experiment, Path(name), until="tokenizer")
        for size in map(int, megabytes or ("10", "1000")):
            corpus = Path(name) / f"{size}-mb"
            text_bytes = repeat_stories(inputs["corpus"], corpus, size * 1_000_000)
            seconds, peak = in_fresh_process(time_packing, corpus, inputs["tokenizer"], experiment.shards)
            figures = {"text_bytes": text_bytes, "seconds": round(seconds, 1), "peak_memory_bytes": peak}
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
