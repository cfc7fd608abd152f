"""How fast is seed S3's sampler on this machine, beside `ddlm bench sample configs/small.toml`?

Question. At the same number of steps, size, length and vocabulary, how many tokens a second does each of them write?

Method. S3's sampler built again from its description, on the network of `seed_recipe.py` (17,341,184 parameters,
float32, eager): times fall evenly from 1 to 0; at each step the network gives the logits of all positions, a token is
drawn for each of them from softmax(logits / temperature) cut to its top k, and each masked position takes its token
with probability 1 - rate(next time) / rate(time), rate being 1 - cos(pi t / 2). Nothing stops early: every step runs.

    python benchmarks/seed_sampler.py --threads 2
"""

import argparse
import json
import time
from itertools import pairwise

import torch
from seed_recipe import PARAMETERS, SEQ_LEN, VOCAB_SIZE, SeedModel, mask_rate
from torch import Tensor

from ddlm.bench.sample import STEPS

MASK_ID, TEMPERATURE, TOP_K = 3, 0.8, 50
"""S3 counts the mask among its tokens; its defaults."""


@torch.inference_mode()
def sample(model: SeedModel, batch_size: int, steps: int) -> Tensor:
    ids = torch.full((batch_size, SEQ_LEN), MASK_ID)
    times = torch.linspace(1, 0, steps + 1)
    for now, following in pairwise(times):
        logits = model(ids, now.expand(batch_size)) / TEMPERATURE
        logits[..., MASK_ID] = -torch.inf
        least = logits.topk(TOP_K).values[..., -1:]
        shares = logits.masked_fill(logits < least, -torch.inf).softmax(-1)
        drawn = torch.multinomial(shares.flatten(0, 1), 1).view(ids.shape)
        opens = torch.rand(ids.shape) < 1 - mask_rate(following) / mask_rate(now)
        ids = torch.where((ids == MASK_ID) & opens, drawn, ids)
    return ids


def measure(model: SeedModel, batch_size: int, steps: int) -> dict[str, float]:
    sample(model, batch_size, 1)
    started = time.perf_counter()
    sample(model, batch_size, steps)
    seconds = time.perf_counter() - started
    return {
        "batch_size": batch_size,
        "num_sampling_steps": steps,
        "ms_per_call": 1000 * seconds / steps,
        "tokens_per_s": batch_size * SEQ_LEN / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = SeedModel().eval()
    assert model.head.out_features == VOCAB_SIZE
    rows = [measure(model, size, STEPS[size]) for size in args.batch]
    print(json.dumps({"parameters": PARAMETERS, "threads": args.threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
