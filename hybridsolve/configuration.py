"""Configurations in YAML: the base of their typed sections, and reading one with changes from the command line."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """Keys that are all known, of the types that they say."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Checked = TypeVar("Checked", bound=Section)


def checked(kind: type[Checked], values: Any, where: str, changes: Sequence[str] = ()) -> Checked:
    """A configuration of what a YAML file holds.

    Parameters
    ----------
    kind : type
        The `Section` that it must be.
    values : mapping
    where : str
        What it was read from, for messages.
    changes : sequence of str
        ``"batch.days=730"``: values in place of the source's, in YAML.

    Raises
    ------
    ValueError
        If a key is unknown, missing or ill-typed; the message names it.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping of keys to values; found {type(values).__name__}: correct it.")
    values = copy.deepcopy(dict(values))
    for change in changes:
        _change(values, change)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{where}: {_sentence(error.errors()[0])}") from None


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, and takes 1e-3 for a number."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        # Keys that `<<` merges may be repeated: they override.
        keys = [self.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key '{key}' is given twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str | bytes, where: str) -> Any:
    """What a YAML text holds; raises ValueError where it is none."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # malformed dates and numbers, deep nesting
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}: correct it.") from None


def _change(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f"a change of the config must be key=value; found '{change}': write for example epochs=10.")
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ValueError(f"the config has no section '{section}' to change in '{change}': correct the key.")
    values[last] = read_yaml(text, f"the value of '{change}'")


def _sentence(error: Any) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"the key '{key}' is unknown: remove or rename it."
    if error["type"] == "missing":
        return f"the key '{key}' is missing: add it."
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return f"'{key}': {message}" if key else message
    return f"the key '{key}' does not fit: {error['msg'].lower()}; found {_SHORT.repr(error['input'])}: correct it."


_SHORT = Repr()
_SHORT.maxstring = 60
