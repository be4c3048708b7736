"""The model compiler: from a step in Python to the kernels' source.

`tracing` runs the step on symbols and makes a graph of it, `simplify` shares its divisions, fuses its products and
takes out of it what depends on parameters and inputs alone, `reversal` makes its adjoint, and `cpp` with `statements`
writes all that as one header on the contract of csrc/core/model.h. `evaluate` runs a graph on plain floats. Nothing
here needs torch or numpy.
"""

from .cpp import header
from .errors import StepError

__all__ = ["StepError", "header"]
