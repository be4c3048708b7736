"""Kernels for the tests of the model compiler, beside those of the package and under names of their own.

Of HBV, whose CPU kernels are generated, the ones that are written by hand; of all others generated ones.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import plugins
from models.toy import toy

import hybridsolve as hs
from hybridsolve import _cpu
from hybridsolve.compiler import header
from hybridsolve.spec import ModelSpec


def twin(model: ModelSpec) -> ModelSpec:
    """The model under another name, so that generated kernels stand beside those written by hand."""
    return replace(model, name=f"{model.name}_generated", triton=None)


BY_HAND = {"hbv": (hs.models.MODELS["hbv10"], hs.models.MODELS["hbv11p"]), "toy": (toy,)}
GENERATED = {name: tuple(map(twin, models)) for name, models in BY_HAND.items()}
# What nobody wrote by hand.
GENERATED |= {
    name: (model,) for name, model in hs.models.MODELS.items() if not any(model in group for group in BY_HAND.values())
}


def renamed(by_hand: Path) -> str:
    """A header written by hand, its kernels under the names of the twins."""
    text = by_hand.read_text().replace('"../core/', '"core/')
    return re.sub(r"KERNEL\((hbv\w+?)(_betaet)?,", r"KERNEL(\1_generated\2,", text)


def load(models: tuple[ModelSpec, ...], name: str, folder: Path) -> None:
    """Compile and load the models' kernels; an unchanged header is not compiled again."""
    text = renamed(plugins.CSRC / "models/hbv.h") if name == "hbv" else header(*models)
    sources = b"".join(p.read_bytes() for p in sorted(plugins.CSRC.rglob("*.h")))
    key = hashlib.sha256(text.encode() + sources).hexdigest()[:16]
    library = folder / f"{key}-generated_{name}_{_cpu.isa()}.so"
    if not library.exists():
        for old in folder.glob(f"*-generated_{name}_{_cpu.isa()}.so"):
            old.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            (Path(aside) / f"{name}.h").write_text(text)
            os.replace(plugins.build(Path(aside) / f"{name}.h", Path(aside), _cpu.isa()), library)
    _cpu.load(str(library))
    for model in models:
        hs.models.get(model)
