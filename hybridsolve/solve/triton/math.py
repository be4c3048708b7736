"""The functions of csrc/core/math.h and elementary.h in Triton, each beside its adjoint twin.

The rules at kinks and singular points, the ranges and the order of operations are those of these headers. minimum and
maximum keep a NaN from either side. No libdevice: float64 would need it, the interpreter lacks it.
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
def adj_maximum(a, b, d_r, d_a, d_b):
    first = a >= b
    return tl.where(first, d_a + d_r, d_a), tl.where(first, d_b, d_b + d_r)


@triton.jit
def adj_select(mask, d_r, d_a, d_b):
    return tl.where(mask, d_a + d_r, d_a), tl.where(mask, d_b, d_b + d_r)


@triton.jit
def at_least(x, floor: tl.constexpr):
    return tl.maximum(x, tl.full(x.shape, floor, x.dtype), NAN_TOO)


@triton.jit
def at_most(x, ceiling: tl.constexpr):
    return tl.minimum(x, tl.full(x.shape, ceiling, x.dtype), NAN_TOO)


@triton.jit
def adj_at_least(x, floor: tl.constexpr, d_r):
    return tl.where(x >= tl.full(x.shape, floor, x.dtype), d_r, 0.0)


@triton.jit
def adj_at_most(x, ceiling: tl.constexpr, d_r):
    return tl.where(x <= tl.full(x.shape, ceiling, x.dtype), d_r, 0.0)


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
def two(x, c: tl.constexpr, i: tl.constexpr):
    """c[i] + c[i + 1] x."""
    return tl.fma(x, tl.full(x.shape, c[i + 1], x.dtype), tl.full(x.shape, c[i], x.dtype))


@triton.jit
def three(x, square, c: tl.constexpr, i: tl.constexpr):
    return tl.fma(tl.full(x.shape, c[i + 2], x.dtype), square, two(x, c, i))


@triton.jit
def four(x, square, c: tl.constexpr, i: tl.constexpr):
    return tl.fma(two(x, c, i + 2), square, two(x, c, i))


@triton.jit
def estrin(x, c: tl.constexpr, n: tl.constexpr):
    """c[0] + c[1] x + .. of 6, 7, 8 or 11 coefficients, in halves, as csrc/core/math.h has it."""
    square = x * x
    fourth = square * square
    if n == 6:
        high = two(x, c, 4)
    elif n == 7:
        high = three(x, square, c, 4)
    else:
        high = four(x, square, c, 4)
    r = tl.fma(high, fourth, four(x, square, c, 0))
    if n == 11:
        r = tl.fma(three(x, square, c, 8), fourth * fourth, r)
    return r


# The polynomials of csrc/core/math.h, lowest power first.
LOG2_32 = tl.constexpr(
    (-0.7213474682, 0.4809107535, -0.3606932681, 0.2879032609, -0.2391698814, 0.2160782255, -0.2058618805, 0.1231096847)
)
LOG2_64 = tl.constexpr(
    (
        0.96179669392598972877,
        0.5770780163455202295,
        0.41219858584090053448,
        0.32059853491395986095,
        0.26233435250418301904,
        0.22091308423117679618,
        0.21365895694319269427,
    )
)
EXP2_32 = tl.constexpr((0.6931472067, 0.2402265092, 0.05550327227, 0.009618056679, 0.001340042818, 0.000154614447))
EXP2_64 = tl.constexpr(
    (
        0.69314718055994530925,
        0.24022650695910159567,
        0.055504108664821627039,
        0.0096181291075872566681,
        0.0013333558146406470697,
        0.00015403530463724354209,
        0.000015252733841556772589,
        1.3215432535912376166e-6,
        1.0178057087733941105e-7,
        7.0741942972885210056e-9,
        4.455817908336064493e-10,
    )
)


@triton.jit
def log2_parts(x):
    """The exponent and log2 of the mantissa, in [sqrt(1/2), sqrt(2)), of a positive normal x."""
    if x.dtype == tl.float32:
        shifted = x.to(tl.int32, bitcast=True) - 0x3F3504F3
        scale = (0x3F800000 - (shifted & -0x800000)).to(tl.float32, bitcast=True)  # 2^-exponent
        t = tl.fma(x, scale, tl.full(x.shape, -1.0, x.dtype))  # of x itself, so that a NaN stays
        exponent = (shifted >> 23).to(tl.float32)
        return exponent, tl.fma(t * t, estrin(t, LOG2_32, 8), t * 1.442695004)
    else:
        shifted = x.to(tl.int64, bitcast=True) - 0x3FE6A09E667F3BCD
        scale = (0x3FF0000000000000 - (shifted & -0x10000000000000)).to(tl.float64, bitcast=True)
        t = tl.fma(x, scale, tl.full(x.shape, -1.0, x.dtype))
        exponent = (shifted >> 52).to(tl.float64)
        s = t / (t + 2.0)
        square = s * s
        return exponent, tl.fma(s * square, estrin(square, LOG2_64, 7), s * 2.8853900817779268115)


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
        r = tl.fma(f, estrin(f, EXP2_32, 6), tl.full(f.shape, 1.0, f.dtype))
        return r * ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    else:
        r = tl.fma(f, estrin(f, EXP2_64, 11), tl.full(f.shape, 1.0, f.dtype))
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
def power(x, y):
    """log2 x, of which the adjoint is made, and x^y, within 2^-121 .. 2^121 (float32) or 2^-1001 .. 2^1001."""
    if x.dtype == tl.float32:
        highest: tl.constexpr = 120.0
    else:
        highest: tl.constexpr = 1000.0
    exponent, fraction = log2_parts(above_tiny(x))
    whole = y * exponent
    n = nearest(at_most(at_least(tl.fma(y, fraction, whole), -highest), highest))
    # What is left after n; far from -1/2 .. 1/2 only where the exponent was bounded.
    f = at_most(at_least(tl.fma(y, fraction, tl.fma(y, exponent, -n)), -1.0), 1.0)
    return exponent + fraction, exp2_parts(n, f)


@triton.jit
def adj_power(log2_x, value, y, d_r):
    """The cotangents of ln x and of y."""
    d_exponent = d_r * value
    return d_exponent * y, d_exponent * 0.69314718055994530942 * log2_x


@triton.jit
def above_tiny(x):
    """x, or where an empty store makes it less, what power, log and sqrt take for it."""
    if x.dtype == tl.float32:
        return at_least(x, 8.673617379884035e-19)
    else:
        return at_least(x, 3.054936363499605e-151)


@triton.jit
def scaling_sigmoid(x):
    """Of a learned parameter, before it is scaled to its range."""
    z = at_most(at_least(x * -1.4426950408889634074, -120.0), 120.0)
    return 1.0 / (exp2(z) + 1.0)


@triton.jit
def constant(x, single: tl.constexpr, double: tl.constexpr):
    """The number of x's precision, in x's shape."""
    if x.dtype == tl.float32:
        return tl.full(x.shape, single, x.dtype)
    else:
        return tl.full(x.shape, double, x.dtype)


@triton.jit
def residual_allowed(x):
    """Of equations at a root, as csrc/core/root.h has it: 8 spacings of x or of 1 mm."""
    return at_least(tl.abs(x), 1.0) * constant(x, 9.5367431640625e-07, 1.7763568394002505e-15)


@triton.jit
def step_allowed(x):
    return residual_allowed(x) * 0.5


@triton.jit
def beyond_allowed(residual, x, wide):
    size = tl.abs(residual)
    return tl.where(size <= maximum(residual_allowed(x), wide), 0.0, size)


@triton.jit
def number(x, value: tl.constexpr):
    """The number, in x's precision and shape."""
    return tl.full(x.shape, value, x.dtype)


@triton.jit
def most_of(n, most: tl.constexpr):
    """How often all lanes pass until the last has made its n passes; one of more than `most` makes none."""
    return tl.max(tl.where(n <= most, n, 0.0), axis=0).to(tl.int32)


@triton.jit
def divide(a, b):
    """a / b rounded to the nearest, as float32's operator does not."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def horner(x, c: tl.constexpr, n: tl.constexpr):
    """c[n - 1] + c[n - 2] x + .. of n coefficients."""
    r = tl.full(x.shape, c[0], x.dtype)
    for i in tl.static_range(1, n):
        r = tl.fma(r, x, tl.full(x.shape, c[i], x.dtype))
    return r


EVEN_32 = tl.constexpr((0.001392618359, 0.04166655462, 0.5))
ODD_32 = tl.constexpr((0.008363179053, 0.1666657699))
EVEN_64 = tl.constexpr(
    (
        2.7620088445409748161e-7,
        0.000024801521295954375131,
        0.0013888888917213716901,
        0.041666666666624127873,
        0.50000000000000010221,
    )
)
ODD_64 = tl.constexpr(
    (
        2.5100385495510319078e-8,
        2.7557268459997064772e-6,
        0.00019841269863053616878,
        0.0083333333333300618325,
        0.16666666666666667453,
    )
)
SIN_32 = tl.constexpr((-2.408009509e-8, 2.753645944e-6, -0.0001984108651, 0.008333332769, -0.1666666666))
SIN_64 = tl.constexpr(
    (
        2.7314368769379891871e-15,
        -7.643969663988074354e-13,
        1.6058977292642742897e-10,
        -2.5052107616690449819e-8,
        2.7557319219160832591e-6,
        -0.00019841269841254964881,
        0.0083333333333333158566,
        -0.16666666666666666633,
    )
)
PI_32 = tl.constexpr((3.1416015625, -8.909031748771667e-06, 1.2154544037912274e-10, -3.4302490200117637e-15))
PI_64 = tl.constexpr((3.1415926534682512, 1.2154201012607932e-10, 4.044532497591901e-21))


@triton.jit
def exp_parts(x):
    """2^n and e^g - 1, with x = n ln 2 + g."""
    magic = constant(x, 12582912.0, 6755399441055744.0)
    n = tl.fma(x, constant(x, 1.44269504, 1.4426950408889634074), magic) - magic
    g = tl.fma(-n, constant(x, 0.693145751953125, 0.693147180559663), x)
    g = tl.fma(-n, constant(x, 1.428606765330187e-06, 2.8235290563031577e-13), g)
    square = g * g
    if x.dtype == tl.float32:
        rest = tl.fma(g, horner(square, ODD_32, 2), horner(square, EVEN_32, 3))
        power = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
        return power, tl.fma(square, rest, g)
    else:
        rest = tl.fma(g, horner(square, ODD_64, 5), horner(square, EVEN_64, 5))
        power = ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
        return power, tl.fma(square, rest, g)


@triton.jit
def exp(x):
    if x.dtype == tl.float32:
        largest: tl.constexpr = 83.0
    else:
        largest: tl.constexpr = 690.0
    power, expm1 = exp_parts(at_most(at_least(x, -largest), largest))
    return tl.fma(power, expm1, power)


@triton.jit
def adj_exp(x, r, d_r):
    return d_r * r


@triton.jit
def log_of_positive(x):
    exponent, fraction = log2_parts(x)
    ln2 = constant(x, 0.693147181, 0.69314718055994530942)
    return tl.fma(exponent, ln2, fraction * ln2)


@triton.jit
def log(x):
    return log_of_positive(above_tiny(x))


@triton.jit
def adj_log(x, r, d_r):
    return divide(d_r, above_tiny(x))


@triton.jit
def sqrt(x):
    if x.dtype == tl.float32:
        return tl.sqrt_rn(above_tiny(x))
    else:
        return tl.sqrt(above_tiny(x))


@triton.jit
def adj_sqrt(x, r, d_r):
    return divide(d_r * 0.5, r)


@triton.jit
def tanh(x):
    if x.dtype == tl.float32:
        limit: tl.constexpr = 10.0
    else:
        limit: tl.constexpr = 20.0
    power, expm1 = exp_parts(at_most(at_least(x, -limit), limit) * 2.0)
    t = tl.fma(power, expm1, power - 1.0)
    return divide(t, t + 2.0)


@triton.jit
def adj_tanh(x, r, d_r):
    return d_r * tl.fma(-r, r, tl.full(r.shape, 1.0, r.dtype))


@triton.jit
def sigmoid(x):
    return divide(tl.full(x.shape, 1.0, x.dtype), exp(-x) + 1.0)


@triton.jit
def adj_sigmoid(x, r, d_r):
    return d_r * (r * (1.0 - r))


@triton.jit
def softplus(x):
    """ln(1 + e^x) as max(x, 0) + ln(1 + u), u = e^-abs(x); what w = 1 + u rounds away is added to its logarithm."""
    u = exp(minimum(x, -x))
    w = u + 1.0
    return relu(x) + (log_of_positive(w) + divide(u - (w - 1.0), w))


@triton.jit
def adj_softplus(x, r, d_r):
    return d_r * sigmoid(x)


@triton.jit
def sine(x, offset: tl.constexpr):
    """(-1)^n sin r with x = (n - offset) pi + r: sin x for offset 0, cos x for offset 1/2."""
    magic = constant(x, 12582912.0, 6755399441055744.0)
    per_pi = constant(x, 0.318309886, 0.31830988618379067154)
    whole = (tl.fma(x, per_pi, tl.full(x.shape, offset, x.dtype)) + magic) - magic
    n = whole - offset
    if x.dtype == tl.float32:
        for i in tl.static_range(4):
            x = tl.fma(-n, tl.full(x.shape, PI_32[i], x.dtype), x)
        s = tl.fma(x * (x * x), horner(x * x, SIN_32, 5), x)
        return (s.to(tl.int32, bitcast=True) ^ (whole.to(tl.int32) << 31)).to(tl.float32, bitcast=True)
    else:
        for i in tl.static_range(3):
            x = tl.fma(-n, tl.full(x.shape, PI_64[i], x.dtype), x)
        s = tl.fma(x * (x * x), horner(x * x, SIN_64, 8), x)
        return (s.to(tl.int64, bitcast=True) ^ (whole.to(tl.int64) << 63)).to(tl.float64, bitcast=True)


@triton.jit
def sin(x):
    return sine(x, 0.0)


@triton.jit
def adj_sin(x, r, d_r):
    return d_r * sine(x, 0.5)


@triton.jit
def cos(x):
    return sine(x, 0.5)


@triton.jit
def adj_cos(x, r, d_r):
    return -d_r * sine(x, 0.0)


@triton.jit
def floor(x):
    n = nearest(x)
    return tl.where(n <= x, n, n - 1.0)
