"""What is wrong with a step, in one sentence with the line of the user's file."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

_OWN = (str(Path(__file__).parent), str(Path(__file__).parents[1] / "models" / "primitives.py"), inspect.__file__)


class StepError(ValueError):
    """A step that cannot be compiled; the message begins with its file and line."""


def is_own(file: str) -> bool:
    """Whether a file belongs to the compiler, the primitives or a library, and to no model."""
    return file.startswith((*_OWN, "<")) or any(f"{os.sep}{name}{os.sep}" in file for name in ("torch", "numpy"))


def here() -> tuple[str, int]:
    """File and line of the model's code that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_own(frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def fault(sentence: str, place: tuple[str, int] | None = None) -> StepError:
    """The error of the line that is running, or of another one."""
    file, line = place or here()
    return StepError(f"{file}:{line}: {sentence}")
