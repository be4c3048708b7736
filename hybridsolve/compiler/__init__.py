"""The model compiler: from a step in Python to the kernels' source.

`tracing` runs the step on symbols and makes a graph of it, `simplify` shares its divisions, fuses its products and
takes out of it what depends on parameters and inputs alone, and `reversal` makes its adjoint. All that is written as
`statements`: by `cpp` in one header on the contract of csrc/core/model.h, by `triton` in one module on that of
solve/triton/drive.py. `evaluate` runs a graph on plain floats. Nothing here needs torch or numpy.
"""

from .cpp import header
from .errors import StepError

__all__ = ["StepError", "header"]
