"""HYBRIDSOLVE_LOG: what the logger "hybridsolve" says goes to stderr, from this level on."""

from __future__ import annotations

import logging
import os
import warnings

LEVELS = ("debug", "info", "warning", "error")


def configure() -> None:
    """Set the level that the environment names, and a handler beside those of the program."""
    wish = os.environ["HYBRIDSOLVE_LOG"]
    if wish.lower() not in LEVELS:
        warnings.warn(
            f"HYBRIDSOLVE_LOG must be {', '.join(LEVELS[:-1])} or {LEVELS[-1]}, found '{wish}', so that nothing is "
            "logged: correct or unset it.",
            stacklevel=3,
        )
        return
    logger, handler = logging.getLogger("hybridsolve"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.setLevel(wish.upper())
    logger.addHandler(handler)
