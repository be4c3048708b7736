"""The models by name. Every module here that holds a `ModelSpec` is found; nothing lists them by hand. Those with
networks inside (hybrids.py), which run with learned weights alone, are found by name but not listed.

A name may also be made of names: "cemaneige+gr4j" is the one before the other, "cemaneige-3" is three layers of it, and
"cemaneige-3+gr6j" both; see `join` and `layered`. "exphydro@rk4x8" is a model that is given as rates, by a scheme; see
`scheme`.
"""

from __future__ import annotations

import re
import runpy
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ..spec import DEFINITIONS as _DEFINITIONS
from ..spec import ModelSpec
from .factors import FACTORS, factored
from .hybrids import HYBRIDS
from .join import join, layered
from .schemes import SCHEMES, named, scheme

__all__ = [
    "DEFAULT",
    "HYBRIDS",
    "MODELS",
    "RATES",
    "by_key",
    "define",
    "factored",
    "get",
    "join",
    "known",
    "layered",
    "names",
    "register",
    "scheme",
    "with_factors",
]
DEFAULT = "hbv11p"  # what is calibrated unless a model is named
SHIPPED = ("gr4j", "cemaneige+gr4j")  # whose kernels every build has, beside those that are written by hand
MODELS: dict[str, ModelSpec] = {}
RATES: dict[str, ModelSpec] = {}  # models that are given as rates, which run by a scheme
_COMPOSED: dict[tuple[str, ...], ModelSpec] = {}  # by name and what it is made of


def register(model: ModelSpec) -> ModelSpec:
    """Make a model known by its name, in place of another of that name; one of rates to those that name a scheme.

    Raises
    ------
    TypeError
        If it is no ModelSpec.
    """
    if not isinstance(model, ModelSpec):
        raise TypeError(f"a model to register must be a ModelSpec; found {type(model).__name__}: make one.")
    (RATES if model.rates else MODELS)[model.name] = model
    return model


def __getattr__(name: str) -> Any:
    if name == "define":  # the compiler is above the tables, and stands here by the name that users know
        from ..compiler.definition import define

        return define
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str | Path) -> tuple[ModelSpec, ...]:
    """The models that a Python file defines by `define`, which are known by their names from then on.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it defines none, or is wrong; the message begins with file and line.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a Python file that defines models.")
    return _load(file, file.stat().st_mtime_ns)


@cache
def _load(file: Path, changed: int) -> tuple[ModelSpec, ...]:
    """Run the file, once as long as it does not change."""
    try:
        values = runpy.run_path(str(file)).values()
    except Exception as error:
        raise ValueError(_wrong_in(file, error)) from error
    found = tuple(
        value for value in values if isinstance(value, ModelSpec) and value.reference_step.__module__ == "<run_path>"
    )
    if not found:
        raise ValueError(f"{file} must define a model; found none: put hs.models.define(...) above its step.")
    return found


def _wrong_in(file: Path, error: Exception) -> str:
    """What a user's file raised, with its line there: a table's or a step's sentence as it is, Python's with its kind.

    A fault of the package in between is neither, and is raised again.
    """
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if text.startswith(f"{file}:"):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    if Path(frames[-1].filename).is_relative_to(Path(__file__).parents[1]):
        if not isinstance(error, TypeError | ValueError):
            raise error
    else:
        text = f"{type(error).__name__}: {text}: correct the file."
    lines = [f.lineno for f in frames if Path(f.filename) == file]
    lines += [error.lineno] if isinstance(error, SyntaxError) and error.filename == str(file) else []
    return f"{file}:{lines[-1]}: {text}" if lines else f"{file}: {text}"


def get(model: str | ModelSpec) -> ModelSpec:
    """The model of that name, one made of those that it names, or the one that a Python file defines: "mine.py", and
    by a scheme, where the file gives rates, "mine.py@rk4x8".

    A ModelSpec is handed back, registered or not.

    Raises
    ------
    ValueError
        If there is none, and the message lists those there are; if those that it names cannot be joined or layered.
    """
    if isinstance(model, str) and (file := re.fullmatch(r"(.+\.py)(?:@(.+))?", model)):
        found = load(file[1])
        if len(found) != 1:
            names = ", ".join(m.name for m in found)
            raise ValueError(f"{file[1]} must define one model; found {names}: load it, and name one of them.")
        if file[2]:
            return _composed(named, f"{found[0].name}@{file[2]}", found[0], file[2])
        if found[0].rates:
            raise ValueError(_needs_scheme(found[0], file[1]))
        return found[0]
    if isinstance(model, ModelSpec):
        if model.rates:
            raise ValueError(_needs_scheme(model))
        _DEFINITIONS.setdefault(model.key, model)  # a copy from another process is not made anew
        return model
    if isinstance(model, str):
        if model in MODELS or model in HYBRIDS:
            return MODELS.get(model) or HYBRIDS[model]
        front, plus, body = model.partition("+")
        if plus and front in FACTORS and body:
            return _composed(factored, model, front, get(body))
        if plus and front and body:
            return _composed(join, model, get(front), get(body))
        of, at, how = model.partition("@")
        if at and of and how:
            return _composed(named, model, RATES[of] if of in RATES else get(of), how)
        if model in RATES:
            raise ValueError(_needs_scheme(RATES[model]))
        layers = re.fullmatch(r"(.+)-(\d+)", model)
        if layers is not None:
            return _composed(layered, model, get(layers[1]), int(layers[2]))
    raise ValueError(
        f"unknown model {model!r}; expected one of {', '.join(MODELS)}, two of them joined by +, one behind "
        f"{' or '.join(f'{name}+' for name in FACTORS)}, {', '.join(RATES)} by a scheme such as {min(RATES)}@rk4x8, a "
        "ModelSpec, or a Python file that defines one."
    )


def _needs_scheme(model: ModelSpec, name: str = "") -> str:
    return (
        f"model '{model.name}' is given as rates, and runs by a scheme; found none: take '{name or model.name}@' with "
        f"one of {', '.join(SCHEMES)}, and of sub-steps 'x8' behind it."
    )


def _composed(how: Callable, name: str, *parts: Any) -> ModelSpec:
    """The model made of these, once."""
    key = (name, *(str(getattr(part, "key", part)) for part in parts))
    if key not in _COMPOSED:
        _COMPOSED[key] = how(*parts)
    return _COMPOSED[key]


def with_factors(model: ModelSpec, names: Iterable[str]) -> ModelSpec:
    """The model with those factors that are named and that it lacks; see `hybridsolve.models.factors`."""
    names, have = set(names), {v.name for v in model.every_parameter}
    for name in reversed(FACTORS):
        if name in names and name not in have:
            model = _composed(factored, f"{name}+{model.name}", name, model)
    return model


def by_key(key: str) -> ModelSpec:
    """The model of a `ModelSpec.key`, which a graph of torch.compile holds in its place."""
    return _DEFINITIONS[key]


def known() -> tuple[ModelSpec, ...]:
    """All models that were registered or that a run was asked of."""
    return tuple(_DEFINITIONS.values())


def names() -> tuple[str, ...]:
    """The names of all registered models."""
    return tuple(MODELS)


for _module in sorted(module.name for module in iter_modules(__path__) if module.name != "hybrids"):
    for _value in vars(import_module(f".{_module}", __name__)).values():
        if isinstance(_value, ModelSpec):
            register(_value)
