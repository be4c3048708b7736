"""Packages that parts of the library need: extras of pyproject.toml bring them, and a missing one says which."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distributions, requires

PACKAGES = {"warp": "warp-lang", "yaml": "pyyaml"}  # module: the package that installs it, where the names differ
OTHERS = ("docs", "peers", "test")  # extras of developers


class MissingPackage(ModuleNotFoundError):
    """A package that is not installed, in one sentence with what brings it.

    Parameters
    ----------
    what : str
        What needs it.
    module : str
        The module that cannot be imported.
    """

    def __init__(self, what: str, module: str):
        package = PACKAGES.get(module, module.replace("_", "-"))
        extra = extra_of(package)
        remedy = f"pip install 'hybridsolve[{extra}]'" if extra else f"pip install {package}"
        super().__init__(f"{what} needs {package}, which is not installed: {remedy}.", name=module)
        self.what, self.module = what, module

    def __reduce__(self):  # workers of Dask send it back
        return MissingPackage, (self.what, self.module)


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Import other packages within: one that is missing is raised as `MissingPackage`, needed for `what`."""
    try:
        yield
    except MissingPackage:
        raise
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "hybridsolve"):
            raise
        raise MissingPackage(what, module) from error


def extra_of(package: str) -> str:
    """The first extra that brings a package; an empty text where none does."""
    return next((extra for extra, packages in _extras().items() if package.lower() in packages), "")


def installed() -> dict[str, list[str]]:
    """The extras of users, and which packages of each are not installed."""
    there = {(d.name or "").replace("_", "-").lower() for d in distributions()}
    return {extra: sorted(packages - there) for extra, packages in _extras().items() if extra not in OTHERS}


def _extras() -> dict[str, set[str]]:
    """The packages of each extra, in small letters, without those that it has of other extras."""
    found: dict[str, set[str]] = {}
    try:
        lines = requires("hybridsolve") or []
    except PackageNotFoundError:  # a checkout that nobody has installed
        return found
    for line in lines:
        if match := re.match(r"""([\w.-]+).*\bextra\s*==\s*["']([\w-]+)["']""", line):
            found.setdefault(match[2], set()).add(match[1].replace("_", "-").lower())
    return {extra: packages - {"hybridsolve"} for extra, packages in found.items() if packages != {"hybridsolve"}}
