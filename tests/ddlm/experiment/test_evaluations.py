"""Which text a model is measured on."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ddlm.config import UserError
from ddlm.experiment.evaluations import read_data

STORIES = ["Once there was a fox.", "Sue saw a hen."]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model whose corpus had its text in the column `story`."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "experiment.toml").write_text('[corpus]\ntext_field = "story"\n')
    return folder


@pytest.mark.parametrize("column", ["story", "text"])
def test_the_text_is_where_the_model_s_own_corpus_had_it_or_where_ddlm_writes_it(
    model: Path, tmp_path: Path, column: str
) -> None:
    parquet.write_table(pa.table({column: STORIES, "n": [1, 2]}), tmp_path / "a.parquet")
    assert read_data(tmp_path / "a.parquet", model) == STORIES


def test_another_column_can_be_named_and_the_refusal_says_how(model: Path, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"body": STORIES}), tmp_path / "a.parquet")
    assert read_data(tmp_path / "a.parquet", model, "body") == STORIES
    with pytest.raises(UserError, match="no column 'text'; it has body; name the column of the text: --text-field"):
        read_data(tmp_path / "a.parquet", model)
    with pytest.raises(UserError, match="no column 'tale'"):
        read_data(tmp_path / "a.parquet", model, "tale")


def test_a_model_without_its_experiment_reads_the_column_text(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": STORIES}), tmp_path / "a.parquet")
    assert read_data(tmp_path / "a.parquet", tmp_path) == STORIES


def test_a_folder_is_measured_on_its_validation_split(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    (folder / "train.txt").write_text(STORIES[0])
    (folder / "validation.txt").write_text(STORIES[1])
    assert read_data(folder, model) == STORIES[1:]
