"""What people look at: `outputs/<name>/`, put together from artifacts and swapped in at once; and the run's summary."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddlm.artifacts import MANIFEST, RUN_RECORD, Artifact, ArtifactStore, digest_of, open_store
from ddlm.config import UserError, dump_toml, home
from ddlm.evaluation.measures import headlines, numbers_of
from ddlm.experiment import Experiment
from ddlm.tracking.provenance import without_login

PLACES = {"train": "model", "evaluate": "", "render": "", "export": "", "publish": ""}
"""Which stages a view shows, and in which of its folders."""
USED, EXPERIMENT = "artifacts.json", "experiment.toml"
HELD_OUT = "validation.parquet"
"""A link to the stories that the model was not trained on, for `ddlm evaluate --data`."""


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    scores: all numbers, by the names under which they are tracked. tags: what they were measured on.
    headlines: the first of them, as people read them. stages: built or cached, by name.
    """

    name: str
    folder: Path
    scores: dict[str, float]
    tags: dict[str, str]
    headlines: list[tuple[str, str]]
    best_sample: str
    stages: dict[str, str]
    decision: str

    def paths(self) -> list[Path]:
        """What to look at first, of what is there."""
        names = ("report.html", "denoising.gif", "curve.png", "samples.jsonl", HELD_OUT, "model", "bundle")
        return [relative(self.folder / name) for name in names if (self.folder / name).exists()]

    def next_commands(self) -> list[str]:
        """What works with what is there, as it can be typed here."""
        found = []
        if (self.folder / "model").exists():
            found += [
                f'{program("ddlm")} generate {self.name} "Once upon a time" --watch',
                f"{program('ddlm')} render {self.name} --theme neon -o denoising.gif",
            ]
        bundle = self.folder / "bundle" / "generate.py"
        if bundle.exists():
            found.append(f"{program('python')} {shlex.quote(str(relative(bundle)))} --steps 32")
        return found

    def markdown(self) -> str:
        lines = [f"## {self.name}", "", "| score | value |", "|---|---|"]
        lines += [f"| {label} | {value} |" for label, value in self.headlines]
        lines += ["", *(f"- {stage}: {state}" for stage, state in self.stages.items())]
        lines += ["", quoted(self.best_sample), "", f"Folder: `{relative(self.folder)}`", "", plain(self.decision)]
        return "\n".join(lines)


MARKUP = re.compile(r"[^\w\s,.?'\"-]|_|(?<=\w)\.(?=\w)|^\s*[-.]|(?<=^\d)\.", re.MULTILINE)


def plain(text: str) -> str:
    """Text that a page of Markdown shows as it is: what a model writes makes no heading, picture, link or tag of it."""
    return MARKUP.sub(lambda found: "".join(f"&#{ord(sign)};" for sign in found[0]), text)


def quoted(text: str) -> str:
    """A quotation of a text with all its lines."""
    return "\n".join(f"> {plain(line)}  " for line in text.splitlines())


def relative(path: Path) -> Path:
    """As one would type it from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def program(name: str) -> str:
    """How a program of this environment is typed: its name alone where the shell finds this very one by it."""
    own = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    is_found = found is not None and Path(found).absolute() == own
    return name if is_found or not own.exists() else shlex.quote(str(relative(own)))


def require_folder_name(name: str) -> str:
    """Raises: UserError for a name that would lead elsewhere."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"name {name!r}: wanted letters, digits, _, - and ., since it names a folder")
    return name


def place_of(name: str) -> Path:
    """Where the view of an experiment is. Raises: UserError where something else is there."""
    link = home() / name
    if link.exists() and not link.is_symlink():
        raise UserError(f"{link} is a folder of yours; move it away, or give the experiment another name")
    return link


def shareable(experiment: Experiment) -> Experiment:
    """Without the login that its tracking server's address may have."""
    tracking = experiment.tracking
    if tracking.uri is None:
        return experiment
    public = tracking.model_copy(update={"uri": without_login(tracking.uri)})
    return experiment.model_copy(update={"tracking": public})


def assemble(experiment: Experiment, done: Mapping[str, Artifact]) -> Path:
    """Swap in `outputs/<name>/`: a link to a folder named by its content. The same content costs nothing.

    A run that stopped before training leaves an older view as it is: it has nothing to show instead.
    """
    content = {stage: artifact.digest for stage, artifact in done.items()}
    content["experiment"] = dump_toml(shareable(experiment))
    link = place_of(experiment.name)
    if link.is_symlink() and "train" not in done:
        return link
    folder = home() / ".views" / experiment.name / digest_of(content)[:16]
    with ArtifactStore(home() / "artifacts").lock(f"view-{experiment.name}"):  # two runs may end at once
        if not folder.is_dir():
            _fill(folder, experiment, done)
        if not (link.is_symlink() and link.resolve() == folder):
            _point(link, folder)
        for old in folder.parent.iterdir():
            if old != folder:
                shutil.rmtree(old)
    return link


def _fill(folder: Path, experiment: Experiment, done: Mapping[str, Artifact]) -> None:
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for stage, place in PLACES.items():
        if stage not in done:
            continue
        done[stage].require_whole()
        for item in done[stage].path.iterdir():
            if item.name not in (MANIFEST, RUN_RECORD):
                _copy(item, temporary / place / item.name)
    if "corpus" in done:
        (temporary / HELD_OUT).symlink_to(os.path.relpath(done["corpus"].path / HELD_OUT, folder))
    toml = dump_toml(shareable(experiment))
    used = {stage: f"{stage}/{artifact.key}" for stage, artifact in done.items()}
    (temporary / USED).write_text(json.dumps(used, indent=1))
    (temporary / EXPERIMENT).write_text(toml)
    if "train" in done:
        _complete_model(temporary, experiment, toml)
    temporary.rename(folder)


def _copy(item: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if item.is_dir():
        shutil.copytree(item, target)
    else:
        shutil.copy2(item, target)


def _point(link: Path, folder: Path) -> None:
    temporary = link.with_name(f".{link.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(folder, link.parent))
    temporary.replace(link)


def _complete_model(folder: Path, experiment: Experiment, toml: str) -> None:
    """experiment.toml, scores.json and a model card make a model folder speak for itself."""
    model = folder / "model"
    (model / EXPERIMENT).write_text(toml)
    numbers = []
    if (folder / "scores.json").exists():
        shutil.copy2(folder / "scores.json", model / "scores.json")
        numbers = headlines(json.loads((folder / "scores.json").read_text()))
    (model / "README.md").write_text(_card(experiment, numbers))


def _card(experiment: Experiment, numbers: list[tuple[str, str]]) -> str:
    kind = "An autoregressive" if experiment.objective.is_autoregressive else "A masked diffusion"
    lines = [
        "---", "license: mit", "library_name: ddlm", "tags: [masked-diffusion, tinystories]", "---", "",
        f"# {experiment.name}", "",
        f"{kind} language model, trained and measured by ddlm. `experiment.toml` holds every setting.", "",
        "| score | value |", "|---|---|",
    ]  # fmt: skip
    lines += [f"| {label} | {number} |" for label, number in numbers]
    lines += [
        "", "```python", "from ddlm.generation import DiffusionPipeline", "",
        'pipeline = DiffusionPipeline.from_pretrained(".")',
        'print(pipeline.generate("Once upon a time").samples[0].text)', "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def summarise(experiment: Experiment, done: Mapping[str, Artifact], built: list[str]) -> Summary:
    """Assemble the view and read from it how the run ended."""
    folder = assemble(experiment, done)
    scores = json.loads((folder / "scores.json").read_text()) if "evaluate" in done else {}
    decision = json.loads((folder / "publication.json").read_text()).get("reason", "") if "publish" in done else ""
    stages = {stage: "built" if stage in built else "cached" for stage in done}
    best, shown = best_sample(scores.get("samples", [])), headlines(scores) if scores else []
    tags = {"data_digest": scores["data_digest"]} if scores else {}
    return Summary(experiment.name, folder, numbers_of(scores), tags, shown, best, stages, decision)


def best_sample(samples: list[dict[str, Any]]) -> str:
    """The sample with the most words that the corpus knows, those of its longest copied run not counted."""

    def own_words(sample: dict[str, Any]) -> float:
        known = sample.get("word_validity", 1.0) * len(sample["text"].split())
        return float(known - sample.get("longest_overlap_words", 0))

    return str(max(samples, key=own_words)["text"]) if samples else ""


def in_use() -> set[Path]:
    """Artifact folders that a view is made from.

    By stage and key, wherever the store is now: records of earlier versions have the whole path that it once had.
    """
    store, used = open_store().root, set[Path]()
    for record in home().glob(f".views/*/*/{USED}"):
        try:
            places = [Path(path).parts[-2:] for path in json.loads(record.read_bytes()).values()]
        except (ValueError, AttributeError, TypeError):
            remedy = "remove its folder, or run the experiment again"
            raise UserError(f"{record} can't be read, so nobody knows what its experiment uses; {remedy}") from None
        used |= {store.joinpath(*place).resolve() for place in places}
    return used
