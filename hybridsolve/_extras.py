"""Packages that parts of the library need: extras of pyproject.toml bring them, and a missing one says which."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires

PACKAGES = {"warp": "warp-lang", "yaml": "pyyaml"}  # module: the package that installs it, where the names differ


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
    try:
        lines = requires("hybridsolve") or []
    except PackageNotFoundError:  # a checkout that nobody has installed
        return ""
    for line in lines:
        found = re.match(r"""([\w.-]+).*\bextra\s*==\s*["']([\w-]+)["']""", line)
        if found and found[1].replace("_", "-").lower() == package.lower():
            return found[2]
    return ""
