"""A Triton kernel that applies one primitive and its adjoint to every element: for test_elementary.py."""

import triton
import triton.language as tl
from hybridsolve.solve.triton import math as hs

UNARY = ("exp", "log", "sqrt", "tanh", "sigmoid", "softplus", "sin", "cos")
NAMES = (*UNARY, "floor", "relu", "at_least", "at_most", "pow", "pow01", "min", "max", "select")


@triton.jit
def unused(x, r, d_r):
    return d_r


@triton.jit
def kernel(NAME: tl.constexpr, function: tl.constexpr, adjoint: tl.constexpr, x_at, y_at, out, n, BLOCK: tl.constexpr):
    """Writes the value and the cotangents of x and y for a cotangent of -1.5."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    x = tl.load(x_at + at, inside, 1.0)
    y = tl.load(y_at + at, inside, 1.0)
    none = tl.full(x.shape, 0.0, x.dtype)
    d_r = tl.full(x.shape, -1.5, x.dtype)
    d_x = none
    d_y = none
    if NAME == "floor":
        r = hs.floor(x)
    elif NAME == "relu":
        r = hs.relu(x)
        d_x = hs.adj_relu(x, d_r)
    elif NAME == "at_least":
        r = hs.at_least(x, 0.5)
        d_x = hs.adj_at_least(x, 0.5, d_r)
    elif NAME == "at_most":
        r = hs.at_most(x, 0.5)
        d_x = hs.adj_at_most(x, 0.5, d_r)
    elif NAME == "pow":
        log2_x, r = hs.power(x, y)
        d_x, d_y = hs.adj_power(log2_x, r, y, d_r)
        d_x = hs.divide(d_x, hs.above_tiny(x))
    elif NAME == "pow01":
        log2_x, r = hs.pow01(x, y)
        d_x, d_y = hs.adj_pow01(log2_x, r, y, d_r)
        d_x = hs.divide(d_x, hs.above_tiny(x))
    elif NAME == "min":
        r = hs.minimum(x, y)
        d_x, d_y = hs.adj_minimum(x, y, d_r, none, none)
    elif NAME == "max":
        r = hs.maximum(x, y)
        d_x, d_y = hs.adj_maximum(x, y, d_r, none, none)
    elif NAME == "select":
        r = tl.where(x <= y, y, x)
        d_y, d_x = hs.adj_select(x <= y, d_r, none, none)
    else:
        r = function(x)
        d_x = adjoint(x, r, d_r)
    tl.store(out + at, r, inside)
    tl.store(out + n + at, d_x, inside)
    tl.store(out + 2 * n + at, d_y, inside)


def functions(name):
    """The two functions that the kernel is given for a primitive of one argument."""
    return (getattr(hs, name), getattr(hs, f"adj_{name}")) if name in UNARY else (hs.relu, unused)


if __name__ == "__main__":  # compiled for the targets that are named
    import sys

    from hybridsolve.solve.triton.launch import OPTIONS
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for target in sys.argv[1:]:
        card = GPUTarget("hip", target, 64) if target.startswith("gfx") else GPUTarget("cuda", int(target[3:]), 32)
        for precision in ("fp32", "fp64"):
            for name in NAMES:
                signature = dict(
                    NAME="constexpr", function="constexpr", adjoint="constexpr", BLOCK="constexpr", n="i32"
                )
                signature |= dict.fromkeys(("x_at", "y_at", "out"), f"*{precision}")
                given = dict(zip(("NAME", "function", "adjoint", "BLOCK"), (name, *functions(name), 64), strict=True))
                signature = {a: signature[a] for a in kernel.arg_names}
                source = ASTSource(
                    kernel, signature, constexprs={(kernel.arg_names.index(a),): v for a, v in given.items()}
                )
                print(target, precision, name, len(triton.compile(source, target=card, options=OPTIONS).asm))
