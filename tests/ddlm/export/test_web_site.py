"""The page as a folder: what is in it, what it costs, and what is refused. A stand-in for npm's package, no network."""

import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import AddedToken, normalizers, pre_tokenizers

from ddlm.cli import main
from ddlm.config import UserError, home
from ddlm.diffusion import SamplingConfig
from ddlm.export import ExportConfig
from ddlm.export.onnx import export_logits
from ddlm.export.web import site, vendor
from ddlm.export.web.weights import shrink
from ddlm.generation import words
from ddlm.rendering.fonts import FOLDERS, SERIF
from ddlm.tokenizer import Tokenizer
from tests.ddlm.export.page import network_of

ARGUMENTS = {"title": "toy", "sampling": SamplingConfig(), "export": ExportConfig(), "seed": 0}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with the right names, and nothing right in it, where the real one is kept."""
    path = home() / "vendor" / f"{vendor.PACKAGE.replace('@', '-')}.tgz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name in vendor.WASM + vendor.WEBGPU:
            content = name.encode() * 100
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(vendor, "INTEGRITY", vendor.integrity(path))
    return path


@pytest.fixture(scope="module")
def graphs(pipeline, tmp_path_factory):
    """The network in float32, and the same with its matrices in int8."""
    whole, small = (tmp_path_factory.mktemp("graphs") / name for name in ("whole.onnx", "small.onnx"))
    export_logits(pipeline.model, pipeline.seq_len, whole, 18)
    shrink(whole, small)
    return whole, small


@pytest.fixture
def ready_graph(graphs, monkeypatch):
    """Spares seconds where a test is not about the network."""
    monkeypatch.setattr(site, "_graph", lambda *_: (graphs[1].read_bytes(), {}))


def export(pipeline, folder, **changed):
    return site.export_site(pipeline, folder, **{**ARGUMENTS, "rows": None, **changed})


def test_a_shrunken_graph_has_a_quarter_of_the_bytes_and_nearly_the_same_logits(graphs, pipeline):
    whole, small = graphs
    weights = sum(np.prod(weight.shape) for weight in pipeline.model.parameters() if weight.dim() == 2)
    assert small.stat().st_size < whole.stat().st_size - 2.8 * weights
    ids = torch.randint(0, pipeline.tokenizer.mask_id + 1, (1, pipeline.seq_len), generator=torch.manual_seed(1))
    given = {"ids": ids.numpy().astype("int32")}
    near, exact = (onnxruntime.InferenceSession(path).run(None, given)[0] for path in (small, whole))
    assert 0 < np.abs(near - exact).mean() < 0.05 * exact.std()


def test_each_matrix_is_as_near_as_its_scales_allow(graphs):
    whole, small = (onnx.load(path).graph for path in graphs)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small.initializer}
    matrices = [onnx.numpy_helper.to_array(tensor) for tensor in whole.initializer if len(tensor.dims) == 2]
    names = [tensor.name for tensor in whole.initializer if len(tensor.dims) == 2]
    assert names
    for name, matrix in zip(names, matrices, strict=True):
        integers, scale = stored[f"{name}_int8"], stored[f"{name}_scale"]
        assert integers.dtype == np.int8
        assert name not in stored
        assert (np.abs(integers * scale - matrix) <= scale * 0.5001).all()
    assert stored["denoiser.embedding.weight_scale"].shape == (stored["denoiser.embedding.weight_int8"].shape[0], 1)


def test_a_page_holds_everything_and_its_settings_say_what(package, pipeline, tmp_path):
    folder = tmp_path / "a place" / "site"
    made = export(pipeline, folder)
    settings = json.loads((folder / site.SETTINGS).read_text())
    assert settings["title"] == "toy"
    assert settings["seq_len"] == pipeline.seq_len
    assert settings["parity"]["text"] == "random tokens"
    assert settings["parity"]["top1_agreement"] > 0.9
    for name, sizes in settings["files"].items():
        data = (folder / name).read_bytes()
        unpacked = gzip.decompress(data) if name.endswith(".gz") else data
        assert (len(data), len(unpacked)) == (sizes["transferred_bytes"], sizes["bytes"])
    assert set(site.own_files()) <= {path.name for path in folder.iterdir()}
    assert (folder / "typeface.otf").read_bytes() == (FOLDERS[0] / SERIF).read_bytes()
    assert "SIL OPEN FONT LICENSE" in (folder / site.LICENCE).read_text()
    assert made.network == (folder / site.GRAPH).stat().st_size
    assert made.transfer == made.network + made.runtime + made.page
    assert "MIT" in (folder / "vendor" / "LICENSE").read_text()
    assert network_of(folder)(np.zeros(pipeline.seq_len)).shape == (pipeline.seq_len, pipeline.tokenizer.vocab_size)


def test_a_page_is_the_same_bytes_again_and_replaces_an_older_one(package, ready_graph, pipeline, tmp_path):
    def content(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    export(pipeline, tmp_path / "site")
    first = content(tmp_path / "site")
    (tmp_path / "site" / "app.js").write_text("old")
    export(pipeline, tmp_path / "site")
    assert content(tmp_path / "site") == first
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_somebody_else_is_left_alone(package, pipeline, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists and is not a page"):
        export(pipeline, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_an_export_that_fails_leaves_the_older_page(package, ready_graph, pipeline, tmp_path, monkeypatch):
    export(pipeline, tmp_path / "site")
    before = (tmp_path / "site" / site.SETTINGS).read_bytes()
    package.write_bytes(b"damaged")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm not found"):
        export(pipeline, tmp_path / "site")
    assert (tmp_path / "site" / site.SETTINGS).read_bytes() == before


def test_nothing_of_the_page_is_fetched_from_elsewhere():
    """No address of another host, and none that begins at a server's root: the page works from a sub-folder."""
    for path in site.PAGE.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path.name
        for quote in ("'", '"', "`"):
            assert f"={quote}/" not in text, path.name
            assert f"URL({quote}/" not in text, path.name
            assert f"from {quote}/" not in text, path.name


def test_text_is_never_put_into_the_page_as_html():
    for path in site.PAGE.glob("*.js"):
        text = path.read_text()
        assert not [
            name for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write(") if name in text
        ]


def test_npm_that_brings_nothing_or_something_else_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(vendor, "PACKAGE", "onnxruntime-web@0.0.0-nowhere")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"npm could not bring onnxruntime-web@0\.0\.0-nowhere \(.+\); check") as caught:
        vendor.archive()
    assert "\n" not in str(caught.value)


def test_a_package_with_another_hash_is_not_used(monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho forged > package.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match="has another hash than it should"):
        vendor.archive()
    assert not list(home().rglob("*.tgz"))


CHANGES = {
    "normalizer": lambda backend: setattr(backend, "normalizer", normalizers.NFC()),
    "pre_tokenizer": lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "added_tokens": lambda backend: backend.add_tokens([AddedToken("Lily")]),
}


@pytest.mark.parametrize("named", CHANGES)
def test_a_tokenizer_that_the_page_would_read_otherwise_is_refused(tokenizer, named):
    site.require_readable(tokenizer)
    backend = type(tokenizer.backend).from_str(tokenizer.backend.to_str())
    CHANGES[named](backend)
    with pytest.raises(UserError, match=f"has another {named}; export without --web"):
        site.require_readable(Tokenizer(backend))


def test_the_command_writes_a_page_and_says_what_a_visit_costs(
    package, ready_graph, pipeline, tmp_path, capsys, monkeypatch
):
    pipeline.save_pretrained(tmp_path / "toy")
    monkeypatch.setattr("sys.argv", ["ddlm", "export", str(tmp_path / "toy"), "--web", "-o", str(tmp_path / "site")])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    folder, cost = capsys.readouterr().out.splitlines()
    assert Path(folder) == tmp_path / "site"
    assert cost.startswith("a visit fetches 0.")
    assert json.loads((tmp_path / "site" / site.SETTINGS).read_text())["title"] == "toy"


def test_a_page_has_the_name_of_the_experiment(tmp_path):
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "model").symlink_to(tmp_path)  # as a finished run's is
    assert site.title_of(str(tmp_path / "quick" / "model")) == "quick"
    assert [site.title_of(name) for name in ("quick", "someone/stories")] == ["quick", "stories"]


def test_a_visit_that_costs_too_much_says_so():
    assert "meant to be at most 12.00 MB" in str(site.Site(11_000_000, 2_000_000, 1000, 0, {}))
    assert "meant" not in str(site.Site(9_000_000, 2_000_000, 1000, 0, {}))


def test_the_page_says_of_its_orders_what_is_true_of_all_of_them():
    """The one that it begins with is a setting, so the first sentence names none."""
    lead = " ".join(re.search(r'id="lead">(.+?)</p>', (site.PAGE / "index.html").read_text(), re.DOTALL)[1].split())
    assert lead.startswith("This model need not write from left to right. It begins with blanks and fills them in")
    assert not [name for name in words.ORDERS if words.title(name) in lead.replace("left to right", "", 1)]
    assert "surest" not in lead
