"""The elementary functions of csrc/core/math.h in Triton, each beside its adjoint twin; the same rules at kinks.

minimum and maximum keep a NaN from either side. No libdevice: float64 would need it, the interpreter lacks it.
"""

# Code for Triton's compiler, which reads it as its own language.
# ruff: noqa: B905

import triton
import triton.language as tl

NAN_TOO = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    return tl.minimum(a, b, propagate_nan=NAN_TOO)


@triton.jit
def maximum(a, b):
    return tl.maximum(a, b, propagate_nan=NAN_TOO)


@triton.jit
def adj_minimum(a, b, d_r, d_a, d_b):
    first = a <= b
    return tl.where(first, d_a + d_r, d_a), tl.where(first, d_b, d_b + d_r)


@triton.jit
def at_least(x, floor: tl.constexpr):
    return tl.maximum(x, tl.full(x.shape, floor, x.dtype), NAN_TOO)


@triton.jit
def at_most(x, ceiling: tl.constexpr):
    return tl.minimum(x, tl.full(x.shape, ceiling, x.dtype), NAN_TOO)


@triton.jit
def relu(x):
    return at_least(x, 0.0)


@triton.jit
def adj_relu(x, d_r):
    return tl.where(x >= 0, d_r, 0.0)


@triton.jit
def quotient(x, y, per_y):
    """x / y given 1 / y to a few ulp; exactly 1 where x = y, so that a full store is seen as full."""
    q = x * per_y
    return tl.fma(tl.fma(-q, y, x), per_y, q)


@triton.jit
def log2_parts(x):
    """The exponent and log2 of the mantissa, in [sqrt(1/2), sqrt(2)), of a positive normal x."""
    if x.dtype == tl.float32:
        shifted = x.to(tl.int32, bitcast=True) - 0x3F3504F3
        scale = (0x3F800000 - (shifted & -0x800000)).to(tl.float32, bitcast=True)  # 2^-exponent
        t = tl.fma(x, scale, tl.full(x.shape, -1.0, x.dtype))  # of x itself, so that a NaN stays
        exponent = (shifted >> 23).to(tl.float32)
        r = tl.full(x.shape, 0.1231096847, x.dtype)
        for c in tl.static_range(8):
            r = tl.fma(r, t, tl.full(x.shape, LOG2_32[c], x.dtype))
        return exponent, t * r
    else:
        shifted = x.to(tl.int64, bitcast=True) - 0x3FE6A09E667F3BCD
        scale = (0x3FF0000000000000 - (shifted & -0x10000000000000)).to(tl.float64, bitcast=True)
        t = tl.fma(x, scale, tl.full(x.shape, -1.0, x.dtype))
        exponent = (shifted >> 52).to(tl.float64)
        s = t / (t + 2.0)
        r = tl.full(x.shape, 0.21365895693719269427, x.dtype)
        for c in tl.static_range(7):
            r = tl.fma(r, s * s, tl.full(x.shape, LOG2_64[c], x.dtype))
        return exponent, s * r


# The polynomials of csrc/core/math.h, highest power first, without the highest.
LOG2_32 = tl.constexpr(
    (-0.2058618805, 0.2160782255, -0.2391698814, 0.2879032609, -0.3606932681, 0.4809107535, -0.7213474682, 1.442695004)
)
LOG2_64 = tl.constexpr(
    (
        0.22091308423117679618,
        0.26233435250418301904,
        0.32059853491395986095,
        0.41219858584090053448,
        0.5770780163455202295,
        0.96179669392598972877,
        2.8853900817779268115,
    )
)
EXP2_32 = tl.constexpr((0.001340042818, 0.009618056679, 0.05550327227, 0.2402265092, 0.6931472067, 1.0))
EXP2_64 = tl.constexpr(
    (
        1.0178057087733941105e-7,
        1.3215432535912376166e-6,
        0.000015252733841556772589,
        0.00015403530463724354209,
        0.0013333558146406470697,
        0.0096181291075872566681,
        0.055504108664821627039,
        0.24022650695910159567,
        0.69314718055994530925,
        1.0,
    )
)


@triton.jit
def nearest(z):
    """The whole number nearest to z, by adding and taking away 1.5 * 2^(mantissa bits)."""
    if z.dtype == tl.float32:
        return (z + 12582912.0) - 12582912.0
    else:
        return (z + 6755399441055744.0) - 6755399441055744.0


@triton.jit
def exp2_parts(n, f):
    """2^(n + f) for a whole n in [-120, 120] (float32) or [-1000, 1000], and f in [-1/2, 1/2]."""
    if f.dtype == tl.float32:
        r = tl.full(f.shape, 0.000154614447, f.dtype)
        for c in tl.static_range(6):
            r = tl.fma(r, f, tl.full(f.shape, EXP2_32[c], f.dtype))
        return r * ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    else:
        r = tl.full(f.shape, 7.0741942972885210056e-9, f.dtype)
        r = tl.fma(tl.full(f.shape, 4.455817908336064493e-10, f.dtype), f, r)
        for c in tl.static_range(10):
            r = tl.fma(r, f, tl.full(f.shape, EXP2_64[c], f.dtype))
        return r * ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def log2(x):
    exponent, fraction = log2_parts(x)
    return exponent + fraction


@triton.jit
def exp2(z):
    n = nearest(z)
    return exp2_parts(n, z - n)


@triton.jit
def pow01(x, y):
    """clip(x^y, 0, 1) for x >= 0, y > 0: log2 x, of which the adjoint is made, and the value."""
    if x.dtype == tl.float32:
        lowest: tl.constexpr = -120.0
    else:
        lowest: tl.constexpr = -1000.0
    exponent, fraction = log2_parts(above_tiny(x))
    whole = y * exponent
    n = nearest(at_least(tl.fma(y, fraction, whole), lowest))
    # What is left after n; far below -1/2 only where the result is as good as zero.
    f = at_least(tl.fma(y, fraction, tl.fma(y, exponent, -n)), -0.5)
    return exponent + fraction, at_most(exp2_parts(n, f), 1.0)


@triton.jit
def adj_pow01(log2_x, value, y, d_r):
    """The cotangents of ln x and of y."""
    d_exponent = tl.where(log2_x <= 0, d_r * value, 0.0)
    return d_exponent * y, d_exponent * 0.69314718055994530942 * log2_x


@triton.jit
def above_tiny(x):
    """x, or where an empty store makes it less, what pow01 takes for it."""
    if x.dtype == tl.float32:
        return at_least(x, 8.673617379884035e-19)
    else:
        return at_least(x, 3.054936363499605e-151)


@triton.jit
def sigmoid(x):
    z = at_most(at_least(x * -1.4426950408889634074, -120.0), 120.0)
    return 1.0 / (exp2(z) + 1.0)
