"""The frozen, closed base of every configuration section; loading TOML and `section.key=value` overrides."""

import json
import os
import shlex
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.fields import FieldInfo

EXECUTION_ONLY: dict[str, Any] = {"execution_only": True}
"""`Field(json_schema_extra=EXECUTION_ONLY)`: the field can't change a result, so no cache key holds it."""

ConfigT = TypeVar("ConfigT", bound="Section")


def expand_home(path: str) -> str:
    """`~/stories` with the home folder in it: in a file, a service or `--key=~/x` no shell has done it."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


LocalPath = Annotated[str, AfterValidator(expand_home)]
"""A setting that may be a path here."""


class UserError(ValueError):
    """The user's mistake: one line that says what, got, wanted and what to do."""


class Unreachable(ConnectionError):
    """What others serve and can't be had now, in one line that says what to do. The same call may succeed later."""


def home() -> Path:
    """The folder of all state: `outputs/` here, or where the environment variable DDLM_HOME says."""
    return Path(os.environ.get("DDLM_HOME") or "outputs").expanduser().resolve()


class Section(BaseModel):
    """One section of an experiment: frozen, strictly typed, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _whole_numbers_have_64_bits(cls, value: Any) -> Any:
        """As in TOML, torch and numpy; Python's own have no end."""
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("wanted a number of at most 64 bits")
        return value

    def keyed(self) -> dict[str, Any]:
        """The fields that can change a result: what a cache key is made from."""
        hidden = {name for name, field in type(self).model_fields.items() if is_execution_only(field)}
        return self.model_dump(mode="json", exclude=hidden)


def is_execution_only(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("execution_only"))


def read_toml(path: Path) -> dict[str, Any]:
    """Raises: UserError when the file is missing or is not TOML."""
    try:
        raw = path.expanduser().read_bytes()
    except FileNotFoundError:
        raise UserError(f"config {path}: no such file; configs/quick.toml is a good start") from None
    except OSError as error:
        raise UserError(
            f"config {shortened(str(path))}: can't be read ({error.strerror}); give the path of a TOML file"
        ) from None
    try:
        return tomllib.loads(raw.decode("utf-8-sig").replace("\r\n", "\n"))  # as editors on Windows save it
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"config {path}: line {line} is not UTF-8 text; save the file as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"config {path}: not valid TOML ({error}); mend that line") from None


def dump_toml(config: Section) -> str:
    """The config as TOML; absent means absent, since TOML has no null."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def parse_override(text: str) -> tuple[str, Any]:
    """`training.steps=200` to ("training.steps", 200). The value is TOML, and plain text where it is not TOML."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UserError(f"override {text!r}: wanted section.key=value, for example training.steps=200")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def with_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config document with dotted keys set. Raises: UserError when a key leads through a value."""
    result: dict[str, Any] = json.loads(json.dumps(document, default=str))
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        table = result
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise UserError(f"override {dotted}: {parent} is a value, not a section; write section.key=value")
        table[last] = value
    return result


def parse(kind: type[ConfigT], document: Mapping[str, Any], *, source: str) -> ConfigT:
    """Validate a document strictly. Raises: UserError with the path of the first fault and the allowed keys."""
    try:
        return kind.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        raise UserError(f"{source}: " + "; ".join(explain(kind, fault) for fault in error.errors()[:3])) from None


def explain(kind: type[BaseModel], fault: Mapping[str, Any]) -> str:
    """One pydantic fault as: path, got, wanted."""
    path: Sequence[int | str] = fault["loc"]
    dotted = ".".join(map(str, path)) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {dotted}; allowed here: {', '.join(sorted(fields_at(kind, path[:-1])))}"
    if fault["type"] == "missing":
        return f"{dotted} is missing; add it"
    got = "" if fault["type"] == "value_error" else f" (got {shortened(repr(fault['input']))})"
    return f"{dotted}: {fault['msg'].removeprefix('Value error, ')}{got}"


def shortened(text: str, most: int = 60) -> str:
    """What a line can show of something that may be long."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def installing(extra: str) -> str:
    """The command that adds an extra to this environment: from the project's folder where ddlm runs from one."""
    project = Path(__file__).resolve().parents[1]
    python = shlex.quote(sys.executable)
    if not (project / "pyproject.toml").is_file():
        return f"{python} -m pip install 'ddlm[{extra}]'"
    constraints, target = (shlex.quote(f"{project}{part}") for part in ("/constraints.txt", f"[{extra}]"))
    return f"{python} -m pip install -c {constraints} -e {target}"


def fields_at(kind: type[BaseModel], path: Sequence[int | str]) -> set[str]:
    for name in path:
        annotation = kind.model_fields[str(name)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        kind = annotation
    return set(kind.model_fields)
