"""The frozen, closed base of every configuration section; loading TOML and `section.key=value` overrides."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

EXECUTION_ONLY: dict[str, Any] = {"execution_only": True}
"""`Field(json_schema_extra=EXECUTION_ONLY)`: the field can't change a result, so no cache key holds it."""

ConfigT = TypeVar("ConfigT", bound="Section")


class UserError(ValueError):
    """The user's mistake: one line that says what, got, wanted and what to do."""


class Unreachable(ConnectionError):
    """What others serve and can't be had now, in one line that says what to do. The same call may succeed later."""


def home() -> Path:
    """The folder of all state: `outputs/` here, or where the environment variable DDLM_HOME says."""
    return Path(os.environ.get("DDLM_HOME") or "outputs").resolve()


class Section(BaseModel):
    """One section of an experiment: frozen, strictly typed, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    def keyed(self) -> dict[str, Any]:
        """The fields that can change a result: what a cache key is made from."""
        hidden = {name for name, field in type(self).model_fields.items() if is_execution_only(field)}
        return self.model_dump(mode="json", exclude=hidden)


def is_execution_only(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("execution_only"))


def read_toml(path: Path) -> dict[str, Any]:
    """Raises: UserError when the file is missing or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"config {path}: no such file; configs/quick.toml is a good start") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: not valid TOML ({error}); mend that line") from None
    except OSError as error:
        raise UserError(f"config {path}: can't be read ({error.strerror}); give the path of a TOML file") from None


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
    got = "" if fault["type"] == "value_error" else f" (got {fault['input']!r})"
    return f"{dotted}: {fault['msg'].removeprefix('Value error, ')}{got}"


def fields_at(kind: type[BaseModel], path: Sequence[int | str]) -> set[str]:
    for name in path:
        annotation = kind.model_fields[str(name)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        kind = annotation
    return set(kind.model_fields)
