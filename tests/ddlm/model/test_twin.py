"""The autoregressive twin: the same network, told the row one position late."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ddlm.config import UserError, parse
from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import denoise
from ddlm.diffusion.tokens import Draw
from ddlm.experiment import Experiment
from ddlm.model import ModelConfig
from ddlm.model.folder import ModelFolder, load_model, read_folder
from ddlm.model.reuse import BlockReuse
from ddlm.model.source import CONFIG
from ddlm.model.transformer import Denoiser

Build = Callable[..., Denoiser]
MASK, LENGTH, END = 50, 16, 7
TWIN = {"kind": "autoregressive"}


def as_twin(causal: Denoiser) -> Denoiser:
    """The same weights."""
    sizes = {"vocab_size": causal.vocab_size, "seq_len": causal.seq_len, "end_id": END}
    twin = Denoiser(causal.config, **sizes, is_autoregressive=True)
    twin.load_state_dict(causal.state_dict())
    return twin.eval()


@pytest.fixture
def twin(build: Build) -> Denoiser:
    return as_twin(build(attention="causal"))


def some_rows(count: int = 3) -> Tensor:
    return torch.randint(0, MASK, (count, LENGTH), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("place", range(LENGTH))
def test_what_stands_at_a_position_or_after_it_changes_nothing_there(twin: Denoiser, place: int) -> None:
    ids, changed = some_rows(), some_rows()
    changed[:, place:] = torch.tensor([MASK, 3, END])[:, None]
    before, after = twin(ids), twin(changed)
    assert torch.equal(before[:, : place + 1], after[:, : place + 1])
    if place + 1 < LENGTH:
        assert not torch.isclose(before[:, place + 1], after[:, place + 1]).all()


def test_it_is_the_causal_network_on_the_row_behind_one_end_token(build: Build, twin: Denoiser) -> None:
    ids = some_rows()
    shifted = torch.cat([torch.full((3, 1), END), ids[:, :-1]], dim=1)
    causal = build(attention="causal")
    causal.load_state_dict(twin.state_dict())
    assert torch.equal(twin(ids), causal(shifted))
    wanted = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    assert torch.equal(twin.at(ids, wanted), twin(ids)[wanted])


def test_the_first_position_sees_the_end_token_alone(twin: Denoiser) -> None:
    first = twin(torch.cat([some_rows(), torch.full((1, LENGTH), MASK)]))[:, 0]
    assert torch.equal(first, first[:1].expand_as(first))


@pytest.mark.parametrize("block_size", [1, 4])
def test_keys_are_reused_and_the_text_stays(twin: Denoiser, block_size: int) -> None:
    prompt = torch.arange(LENGTH) < torch.tensor([0, 3, 9])[:, None]
    ids = torch.where(prompt, some_rows(), MASK)
    config = SamplingConfig(
        unmasking="left_to_right", num_sampling_steps=LENGTH, block_size=block_size, temperature=1.0, ends="free"
    )
    draw = Draw(config, 0, torch.arange(3), end_id=END)
    plain = [step.ids for step in denoise(twin.at, ids, MASK, draw)]
    reused = [step.ids for step in denoise(twin.at, ids, MASK, draw, denoiser_of=BlockReuse(twin))]
    assert not (plain[-1] == MASK).any()
    assert torch.equal(torch.stack(plain), torch.stack(reused))


def test_with_reuse_a_gap_is_filled_in_view_of_what_stands_before_it_alone(twin: Denoiser) -> None:
    ids = some_rows(1)
    ids[0, 5:8], ids[0, 12] = MASK, MASK
    reuse, logits = BlockReuse(twin), []
    for place in (5, 6, 7, 12):
        wanted = (torch.arange(LENGTH) == place)[None]
        said = reuse(ids.clone(), slice(place, place + 1))(ids, wanted)
        logits.append(float((said - twin.at(ids, wanted)).detach().abs().max()))
        ids[0, place] = int(said.argmax())
    assert max(logits) < 1e-5


def write(folder: Path, model: Denoiser) -> Path:
    ModelFolder.of(model, end_id=END, objective=dict(TWIN)).write(folder)
    save_file(model.state_dict(), folder / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).touch()
    return folder


def test_a_folder_and_a_fresh_network_remember_what_it_is(twin: Denoiser, tmp_path: Path) -> None:
    loaded, config = load_model(write(tmp_path, twin))
    assert config.is_autoregressive
    assert loaded.is_autoregressive
    assert torch.equal(loaded(some_rows()), twin(some_rows()))
    fresh = twin.fresh()
    fresh.load_state_dict(twin.state_dict())
    assert torch.equal(fresh.eval()(some_rows()), twin(some_rows()))


def test_a_folder_without_a_kind_holds_a_masked_model(build: Build, tmp_path: Path) -> None:
    write(tmp_path, build(attention="causal"))
    document = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(document | {"objective": {"schedule": "linear"}}))
    assert not load_model(tmp_path)[0].is_autoregressive


SEES_AHEAD = [
    ({"attention": "bidirectional"}, '"bidirectional"'),
    ({"attention": "block_causal", "block_size": 4}, '"block_causal"'),
    ({"attention": "causal", "segment_mask": True}, '"causal" with a segment mask'),
]


@pytest.mark.parametrize(("model", "got"), SEES_AHEAD)
def test_an_experiment_that_could_see_what_it_predicts_is_refused_in_one_line(model: dict[str, Any], got: str) -> None:
    document = {"name": "x", "model": model, "objective": TWIN}
    said = f'objective.kind "autoregressive" needs model.attention "causal" without a segment mask, got {got}; set'
    with pytest.raises(UserError, match=said) as refused:
        parse(Experiment, document, source="x.toml")
    assert "\n" not in str(refused.value)
    allowed = parse(Experiment, document | {"model": {"attention": "causal"}}, source="x.toml")
    assert allowed.objective.is_autoregressive
    parse(Experiment, document | {"objective": {}}, source="x.toml")


@pytest.mark.parametrize(("model", "got"), SEES_AHEAD)
def test_a_folder_of_such_a_network_is_refused_too(
    model: dict[str, Any], got: str, build: Build, tmp_path: Path
) -> None:
    write(tmp_path, build(attention="causal"))
    document = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(document | {"architecture": document["architecture"] | model}))
    with pytest.raises(UserError, match=f'needs model.attention "causal" without a segment mask, got {got}'):
        read_folder(tmp_path)


def test_its_head_runs_at_every_position_and_a_masked_model_s_at_half_of_them(build: Build, twin: Denoiser) -> None:
    more = twin.train_flops_per_token() - build(attention="causal").train_flops_per_token()
    assert more == pytest.approx(3 * 2 * 0.5 * 32 * 50)


def test_a_network_that_looks_ahead_is_not_built() -> None:
    with pytest.raises(AssertionError, match="see require_causal"):
        Denoiser(ModelConfig(d_model=16, num_heads=2), vocab_size=5, seq_len=4, is_autoregressive=True)
