"""The primitives of model steps: values, gradients, singular points and NaN.

As csrc/core/elementary.h, math.h and dual.h have them for every kind of value, in Triton and in torch.
"""

import ctypes
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_math import FLAGS

from hybridsolve.models import primitives as hs

# In torch. What stands in C++ under the same name is in CODE, and in Triton in elementary_kernel.py.
TORCH = {
    "exp": lambda x, y: hs.exp(x),
    "log": lambda x, y: hs.log(x),
    "sqrt": lambda x, y: hs.sqrt(x),
    "tanh": lambda x, y: hs.tanh(x),
    "sigmoid": lambda x, y: hs.sigmoid(x),
    "softplus": lambda x, y: hs.softplus(x),
    "sin": lambda x, y: hs.sin(x),
    "cos": lambda x, y: hs.cos(x),
    "floor": lambda x, y: hs.floor(x),
    "relu": lambda x, y: hs.relu(x),
    "at_least": lambda x, y: hs.maximum(x, 0.5),
    "at_most": lambda x, y: hs.minimum(x, 0.5),
    "pow": lambda x, y: hs.power(x, y),
    "pow01": lambda x, y: hs.clip(hs.power(x, y), 0.0, 1.0),
    "min": lambda x, y: hs.minimum(x, y),
    "max": lambda x, y: hs.maximum(x, y),
    "select": lambda x, y: hs.select(x <= y, y, x),
    "operators": lambda x, y: (
        (0.5 + (x - y - 2) * (3 * x)) / 7 + hs.select(x < y, x, y) + hs.select(x > y, 2 / x - x / 4, y - 1)
    ),
}
NAMES = list(TORCH)
OF_TWO = ("pow", "pow01", "min", "max", "select", "operators")

CODE = r"""
#include "core/dual.h"

namespace hs {
namespace HS_ISA {

template <class V> using Scalar = typename Lane<V>::scalar;

#define UNARY(f, value_of, cotangent_of)                                \
  struct f##_function {                                                 \
    template <class V> static V value(V x, V) { return value_of; }      \
    template <class V> static void adjoint(V x, V, V d_r, V& d_x, V&) { \
      const V r = f(x);                                                 \
      (void)r, (void)d_r;                                               \
      d_x += cotangent_of;                                              \
    }                                                                   \
  };
#define KEPT(f)                                                         \
  template <class V> static V f##_kept(V x) {                           \
    V r{};                                                              \
    keep_##f<false>(r, x);                                              \
    return r;                                                           \
  }                                                                     \
  UNARY(f, f##_kept(x), adj_##f(x, r, d_r))
KEPT(exp)
KEPT(log)
KEPT(sqrt)
KEPT(tanh)
KEPT(sigmoid)
KEPT(softplus)
KEPT(sin)
KEPT(cos)
UNARY(floor, floor(x), V{})
UNARY(relu, relu(x), adj_relu(x, d_r))
template <class V> V at_least(V x) { return at_least(x, Scalar<V>(0.5)); }
template <class V> V at_most(V x) { return at_most(x, Scalar<V>(0.5)); }
UNARY(at_least, at_least(x), adj_at_least(x, Scalar<V>(0.5), d_r))
UNARY(at_most, at_most(x), adj_at_most(x, Scalar<V>(0.5), d_r))

#define POWER(f)                                                                    \
  struct f##_function {                                                             \
    template <class V> static V value(V x, V y) {                                   \
      Power<V> r{};                                                                 \
      keep_##f<false>(r, x, y);                                                     \
      return r.value;                                                               \
    }                                                                               \
    template <class V> static void adjoint(V x, V y, V d_r, V& d_x, V& d_y) {       \
      d_x += adj_##f(f(x, y), y, d_r, d_y) / at_least(x, Format<Scalar<V>>::tiny);  \
    }                                                                               \
  };
POWER(pow)
POWER(pow01)
struct min_function {
  template <class V> static V value(V x, V y) { return min(x, y); }
  template <class V> static void adjoint(V x, V y, V d_r, V& d_x, V& d_y) { adj_min(x, y, d_r, d_x, d_y); }
};
struct max_function {
  template <class V> static V value(V x, V y) { return max(x, y); }
  template <class V> static void adjoint(V x, V y, V d_r, V& d_x, V& d_y) { adj_max(x, y, d_r, d_x, d_y); }
};
struct select_function {
  template <class V> static V value(V x, V y) { return select(x <= y, y, x); }
  template <class V> static void adjoint(V x, V y, V d_r, V& d_x, V& d_y) { adj_select(x <= y, d_r, d_y, d_x); }
};
struct operators_function {  // of duals, with numbers among the operands; the cotangents are made by hand
  template <class V> static V value(V x, V y) {
    using T = Scalar<V>;
    V r = x;
    r -= y;
    r = (T(0.5) + (r - T(2)) * (T(3) * x)) / T(7);
    return r + select(x < y, x, y) + select(x > y, T(2) / x - x / T(4), y - T(1));
  }
  template <class V> static void adjoint(V x, V y, V d_r, V& d_x, V& d_y) {
    using T = Scalar<V>;
    d_x = d_r * (x * T(6) - y * T(3) - T(6)) / T(7);
    d_y = d_r * x * T(-3) / T(7);
    adj_select(x < y, d_r, d_x, d_y);
    d_x += select(x > y, d_r * (T(-2) / (x * x) - T(0.25)), V{});
    d_y += select(x > y, V{}, d_r);
  }
};

// The value, the cotangents of x and y for one of -1.5, and the tangents along x and y, for every element.
template <class F, class V> void apply(int64_t n, const Scalar<V>* x, const Scalar<V>* y, Scalar<V>* out) {
  constexpr int64_t lanes = sizeof(V) / sizeof(*x);
  for (int64_t i = 0; i < n; i += lanes) {
    V a, b, r[5] = {};
    for (int l = 0; l < lanes; ++l) lane(a, l) = x[i + l], lane(b, l) = y[i + l];
    r[0] = F::value(a, b);
    F::adjoint(a, b, splat<V>(-1.5), r[1], r[2]);
    const V along_x[] = {splat<V>(1), V{}}, along_y[] = {V{}, splat<V>(1)};
    const Dual<V, 2> tangents = F::value(Dual<V, 2>(a, along_x), Dual<V, 2>(b, along_y));
    r[3] = tangents.d[0], r[4] = tangents.d[1];
    for (int l = 0; l < lanes; ++l)
      for (int k = 0; k < 5; ++k) out[k * n + i + l] = lane(r[k], l);
  }
}
template <class V> void choose(int f, int64_t n, const Scalar<V>* x, const Scalar<V>* y, Scalar<V>* out) {
  using Function = void (*)(int64_t, const Scalar<V>*, const Scalar<V>*, Scalar<V>*);
  static const Function all[] = {FUNCTIONS};
  all[f](n, x, y, out);
}
#if defined(HS_CUDA)
using f32 = float;
using f64 = double;
#endif
extern "C" {
void one_float(int f, int64_t n, const float* x, const float* y, float* out) { choose<f32>(f, n, x, y, out); }
void one_double(int f, int64_t n, const double* x, const double* y, double* out) { choose<f64>(f, n, x, y, out); }
#if !defined(HS_CUDA)
void pair_float(int f, int64_t n, const float* x, const float* y, float* out) { choose<Pair<f32>>(f, n, x, y, out); }
void pair_double(int f, int64_t n, const double* x, const double* y, double* out) {
  choose<Pair<f64>>(f, n, x, y, out);
}
#endif
}

}  // namespace HS_ISA
}  // namespace hs
""".replace("FUNCTIONS", ", ".join(f"apply<{n}_function, V>" for n in NAMES))

WAYS = {isa: flags for isa, flags in FLAGS.items()} | {"cuda": ["-DHS_CUDA_ON_CPU", "-mfma"]}  # a number, not a pack


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """compiled(way, name, x, y, pair): the five rows that CODE's apply writes."""
    from hybridsolve import _cpu

    compiler = shutil.which("g++")
    if not compiler:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("elementary")
    (folder / "code.cpp").write_text(CODE)
    libraries = {}

    def library(way):
        if way not in libraries:
            if ("avx2" if way == "cuda" else way) not in _cpu.isas():
                pytest.skip(f"{way} is not in this build or not on this processor")
            flags = f"-std=c++17 -O1 -ffp-contract=off -Wno-psabi -w -shared -fPIC -DHS_ISA={way}".split() + WAYS[way]
            flags += [f"-I{ROOT}/csrc", f"-I{ROOT}/tests/cuda_on_cpu"]
            command = [compiler, *flags, str(folder / "code.cpp"), "-o", str(folder / f"{way}.so")]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            libraries[way] = ctypes.CDLL(str(folder / f"{way}.so"))
        return libraries[way]

    def call(way, name, x, y, pair=False):
        n = x.size
        full = np.resize(x, -(-n // 32) * 32), np.resize(y, -(-n // 32) * 32)  # whole packs
        out = np.full((5, full[0].size), np.nan, x.dtype)
        function = ("pair_" if pair else "one_") + ("float" if x.dtype == np.float32 else "double")
        at = [ctypes.c_void_p(a.ctypes.data) for a in (*full, out)]
        getattr(library(way), function)(NAMES.index(name), ctypes.c_int64(out.shape[1]), *at)
        return out[:, :n]

    return call


def by_torch(name, x, y):
    """The value and the cotangents of x and y for one of -1.5."""
    x, y = torch.tensor(x, requires_grad=True), torch.tensor(y, requires_grad=True)
    r = TORCH[name](x, y)
    grads = [torch.zeros_like(x), torch.zeros_like(y)]
    if r.requires_grad:
        found = torch.autograd.grad(r, (x, y), torch.full_like(r, -1.5), allow_unused=True)
        grads = [g if f is None else f for f, g in zip(found, grads, strict=True)]
    return np.stack([v.detach().numpy() for v in (r, *grads)])


def by_triton(name, x, y):
    pytest.importorskip("triton", reason="triton is not installed")
    from elementary_kernel import functions, kernel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = torch.full((3, x.size), float("nan"), dtype=torch.from_numpy(x).dtype, device=device)
    at = [torch.from_numpy(a).to(device) for a in (x, y)]
    kernel[(-(-x.size // 1024),)](name, *functions(name), *at, out, x.size, BLOCK=1024, enable_fp_fusion=False)
    return out.cpu().numpy()


every_way = pytest.mark.parametrize("way", [*WAYS, "torch", "triton"])
both_precisions = pytest.mark.parametrize("dtype", (np.float32, np.float64), ids=("float32", "float64"))


@pytest.fixture
def apply(compiled):
    """apply(way, name, x, y): value and cotangents, by whichever way."""

    def call(way, name, x, y):
        if way == "torch":
            return by_torch(name, x, y)
        return by_triton(name, x, y) if way == "triton" else compiled(way, name, x, y)[:3]

    return call


def range_of(dtype):
    """tiny, the largest argument of exp, and the saturation of tanh."""
    return (2.0**-60, 83.0, 10.0) if dtype == np.float32 else (2.0**-500, 690.0, 20.0)


def inputs(name, dtype, n=4000, seed=0):
    """Random operands: of both signs and many orders of magnitude, or near the points where accuracy is lost first."""
    rng = np.random.default_rng(seed)
    tiny, largest, saturation = range_of(dtype)
    signs = rng.choice((-1.0, 1.0), n)
    small = signs * 10 ** rng.uniform(-7, 0, n)
    wide = 10 ** rng.uniform(-12, 12, n)
    x = {
        "exp": (rng.uniform(-largest, largest, n), small),
        "log": (wide, 1 + small[abs(small) < 0.5]),
        "sqrt": (wide,),
        "tanh": (small, rng.uniform(-1.1, 1.1, n) * saturation),
        "sigmoid": (rng.uniform(-largest, 40, n), small),
        "softplus": (rng.uniform(-largest, largest, n), 8 * small),
        "sin": (rng.uniform(-1000, 1000, n), small, np.round(rng.uniform(-318, 318, n)) * np.pi),
        "cos": (rng.uniform(-1000, 1000, n), small, (np.round(rng.uniform(-318, 318, n)) - 0.5) * np.pi),
        "floor": (rng.uniform(-50, 50, n), signs * rng.uniform(0, 4e6, n), np.round(rng.uniform(-50, 50, n))),
        "pow": (10 ** rng.uniform(-4, 1, n), rng.uniform(0.5, 2, n)),
        "pow01": (10 ** rng.uniform(-4, 0.1, n), rng.uniform(0.5, 1, n)),
    }.get(name, (rng.uniform(-2, 2, n), np.round(rng.uniform(-2, 2, n))))  # with ties
    x = np.concatenate(x)
    if name == "operators":
        x = x[np.abs(x) > 0.01]
    y = np.resize(np.round(rng.uniform(-2, 2, n)), x.size)
    if name == "pow":
        y = rng.uniform(-2, 6, x.size)
    if name == "pow01":
        y = rng.uniform(0.3, 6, x.size)
    return x.astype(dtype), y.astype(dtype)


EXACT = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(x, np.longdouble(0)),
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "pow": np.power,
}


def assert_within(found, expected, allowed, x, y):
    bad = ~(np.abs(found - expected) <= allowed)
    if bad.any():
        at = tuple(np.argwhere(bad)[np.argmax(np.abs(found - expected)[bad])])
        a, b = x[at[-1]], y[at[-1]]
        pytest.fail(f"{bad.sum()} wrong; row {at[0]} at x {a}, y {b}: {found[at]}, not {expected[at]} to {allowed[at]}")


@both_precisions
@every_way
@pytest.mark.parametrize("name", EXACT)
def test_values(apply, way, name, dtype):
    """Within 4 epsilon of the exact value, relative."""
    x, y = inputs(name, dtype)
    found = apply(way, name, x, y)[0].astype(np.longdouble)
    exact = EXACT[name](*[a.astype(np.longdouble) for a in ((x, y) if name in OF_TWO else (x,))])
    error = np.abs(found - exact) / np.maximum(np.abs(exact), np.finfo(dtype).tiny) / np.finfo(dtype).eps
    allowed = 4.0
    if way == "torch":
        allowed = 8.0  # not ours
    assert (error <= allowed).all(), error.max()


def specials(name, dtype):
    """Every pair of operands at which a rule is needed, and of ties."""
    tiny, largest, saturation = range_of(dtype)
    x = [0.0, -0.0, tiny / 4, tiny, 4 * tiny, -tiny, -0.1, 0.5, 1.0, -1.0, 2.0, 3.5, -3.5, 17.5, -17.5, 40.0, -40.0]
    x += [s * v for s in (1, -1) for v in (saturation, largest, 0.5 * largest)]
    if name not in ("sin", "cos"):
        x += [s * v for s in (1, -1) for v in (100.0 * largest, 1e4 * saturation)]
    y = [0.0, -0.0, 0.3, 0.5, 1.0, 1.5, 2.5, 6.0]
    if name == "pow":
        x, y = [v for v in x if abs(v) <= 40], [*y, -0.5, -1.0]
    if name == "pow01":
        y = y[2:]
    if name == "operators":
        x = [v for v in x if abs(v) > 0.01]
    x, y = np.meshgrid(np.array(x, dtype), np.array(y, dtype))
    return x.ravel(), y.ravel()


@both_precisions
@pytest.mark.parametrize("name", NAMES)
def test_bits(compiled, name, dtype):
    """Of pairs and packs, and of all that have a fused product: packs of any width, and numbers."""
    x, y = (np.concatenate(a) for a in zip(inputs(name, dtype), specials(name, dtype), strict=True))
    results = {}
    for way in WAYS:
        try:
            results[way] = compiled(way, name, x, y)
        except pytest.skip.Exception:
            continue
        if way != "cuda":
            np.testing.assert_array_equal(compiled(way, name, x, y, pair=True), results[way])
    fused = [r for way, r in results.items() if way != "baseline"]
    for other in fused[1:]:
        np.testing.assert_array_equal(other, fused[0])


@both_precisions
@pytest.mark.parametrize("name", [n for n in NAMES if n != "operators"])
def test_triton_gives_the_bits_of_cpp(compiled, name, dtype):
    """The interpreter and a card fuse a product where it is written, as AVX2 does."""
    x, y = (np.concatenate(a) for a in zip(inputs(name, dtype), specials(name, dtype), strict=True))
    np.testing.assert_array_equal(by_triton(name, x, y), compiled("avx2", name, x, y)[:3])


@both_precisions
@pytest.mark.parametrize("way", [*WAYS, "triton"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients(compiled, apply, way, name, dtype):
    """Cotangents and tangents are those of the torch form by autograd, at ties and singular points too."""
    if way == "triton" and name == "operators":
        pytest.skip("of C++ alone")
    eps, tiny = np.finfo(dtype).eps, range_of(dtype)[0]
    # In float64, but for those whose range depends on the precision.
    wide = dtype if name in ("exp", "log", "sqrt", "pow", "pow01", "sigmoid", "softplus") else np.float64
    for x, y in (inputs(name, dtype), specials(name, dtype)):
        expected = by_torch(name, x.astype(wide), y.astype(wide))
        allowed = 12 * eps * np.abs(expected)
        if name in ("pow", "pow01"):
            allowed *= 1 + np.abs(y * np.log2(np.maximum(x, tiny))) / 12  # where no product is fused
            allowed += 100 * tiny  # as good as 0, where x^y is below what the kernels stop at
        if name in ("tanh", "sigmoid", "operators"):
            allowed += 8 * eps  # differences of numbers of the order of 1
        allowed += 2 * np.exp(-range_of(dtype)[1])  # where sigmoid and softplus of the kernels stop
        assert_within(apply(way, name, x, y), expected, allowed, x, y)
        if way in WAYS:
            tangents = compiled(way, name, x, y)[3:]
            assert_within(-1.5 * tangents, expected[1:], allowed[1:], x, y)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_differences(name):
    """Those of the torch forms, by which the others are judged, away from kinks."""
    x, y = inputs(name, np.float64)
    if name in ("floor", "relu", "at_least", "at_most", "min", "max", "select", "pow01", "operators"):
        smooth = np.minimum(np.abs(x - y), np.abs(x - np.round(2 * x) / 2)) > 1e-5
        x, y = x[smooth], y[smooth]
    value, d_x, d_y = by_torch(name, x, y)
    width = 1e-5 * (np.abs(x) if name in ("log", "sqrt", "pow", "pow01") else np.clip(np.abs(x), 1e-3, 1))
    for d, h_x, h_y in ((d_x, width, 0.0), (d_y, 0.0, 1e-5)):
        above, below = by_torch(name, x + h_x, y + h_y)[0], by_torch(name, x - h_x, y - h_y)[0]
        expected = -1.5 * (above - below) / (2 * (h_x + h_y))
        rounding = 1e-15 * np.abs(value) / (h_x + h_y)
        assert_within(d, expected, 1e-7 * np.abs(expected) + 10 * rounding + 1e-9, x, y)


@both_precisions
@every_way
def test_singular_points(apply, way, dtype):
    """The table at the head of elementary.h, point by point: value, slope in x, slope in y."""
    tiny, largest, saturation = range_of(dtype)
    root, ln_tiny, e_largest = np.sqrt(tiny), np.log(tiny), np.exp(largest)
    points = [
        ("exp", 0, 0, 1, 1, 0),
        ("exp", 1.5 * largest, 0, e_largest, e_largest, 0),
        ("exp", -1.5 * largest, 0, 1 / e_largest, 1 / e_largest, 0),
        ("log", 0, 0, ln_tiny, 1 / tiny, 0),
        ("log", -1, 0, ln_tiny, 1 / tiny, 0),
        ("log", 1, 0, 0, 1, 0),
        ("sqrt", 0, 0, root, 0.5 / root, 0),
        ("sqrt", -1, 0, root, 0.5 / root, 0),
        ("pow", 0, 1, tiny, 1, tiny * ln_tiny),
        ("pow", 0, 0.5, root, 0.5 / root, root * ln_tiny),
        ("pow", 0, 1.5, tiny * root, 1.5 * root, tiny * root * ln_tiny),
        ("pow", -0.25, 1, tiny, 1, tiny * ln_tiny),
        ("pow", 0, 0, 1, 0, ln_tiny),
        ("pow", 0, -1, 1 / tiny, -1 / tiny**2, ln_tiny / tiny),
        ("pow", 4, 0, 1, 0, np.log(4)),
        ("pow", 1, 3, 1, 3, 0),
        ("pow01", 0, 1, tiny, 1, tiny * ln_tiny),
        ("pow01", 1, 3, 1, 3, 0),
        ("pow01", 1.25, 3, 1, 0, 0),
        ("tanh", 0, 0, 0, 1, 0),
        ("tanh", 2 * saturation, 0, 1, 0, 0),
        ("tanh", -2 * saturation, 0, -1, 0, 0),
        ("sigmoid", 0, 0, 0.5, 0.25, 0),
        ("sigmoid", 100 * largest, 0, 1, 0, 0),
        ("sigmoid", -0.5 * largest, 0, np.exp(-0.5 * largest), np.exp(-0.5 * largest), 0),
        ("softplus", 0, 0, np.log(2), 0.5, 0),
        ("softplus", 100 * largest, 0, 100 * largest, 1, 0),
        ("softplus", -0.5 * largest, 0, np.exp(-0.5 * largest), np.exp(-0.5 * largest), 0),
        ("sin", 0, 0, 0, 1, 0),
        ("cos", 0, 0, 1, 0, 0),
        ("floor", -0.5, 0, -1, 0, 0),
        ("floor", 2, 0, 2, 0, 0),
        ("floor", -2, 0, -2, 0, 0),
        ("relu", 0, 0, 0, 1, 0),
        ("at_least", 0.5, 0, 0.5, 1, 0),
        ("at_least", 0.25, 0, 0.5, 0, 0),
        ("at_most", 0.5, 0, 0.5, 1, 0),
        ("at_most", 0.75, 0, 0.5, 0, 0),
        ("min", 2, 2, 2, 1, 0),
        ("max", 2, 2, 2, 1, 0),
        ("max", 1, 2, 2, 0, 1),
        ("select", 2, 2, 2, 0, 1),
        ("select", 3, 2, 3, 1, 0),
    ]
    for name, x, y, *expected in points:
        value, d_x, d_y = apply(way, name, np.array([x], dtype), np.array([y], dtype))[:, 0]
        found = value, d_x / -1.5, d_y / -1.5
        # A thousand epsilon is for powers of tiny, whose logarithm is rounded where no product is fused.
        np.testing.assert_allclose(found, expected, rtol=1e3 * np.finfo(dtype).eps, err_msg=f"{name}({x}, {y})")
    if way != "torch":  # whose power overflows there
        highest = 2.0 ** (120 if dtype == np.float32 else 1000)
        for y, expected in ((40, highest), (-40, 1 / highest)):
            value, *slopes = apply(way, "pow", np.array([1e30], dtype), np.array([y], dtype))[:, 0]
            assert expected / 2.001 <= value <= 2.001 * expected and np.isfinite(slopes).all()


@both_precisions
@every_way
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, where Triton's interpreter casts a NaN
def test_a_nan_stays(apply, way, dtype):
    x, y = np.array([np.nan, 0.5, np.nan], dtype), np.array([0.5, np.nan, np.nan], dtype)
    for name in NAMES:
        if name in ("select", "operators"):
            continue
        value = apply(way, name, x, y)[0]
        assert np.isnan(value[[0, 2]]).all(), name
        assert np.isnan(value[1]) == (name in OF_TWO), name
    # A comparison with a NaN is false, and select picks its second operand, which is x here.
    value = apply(way, "select", x, y)[0]
    assert np.isnan(value[[0, 2]]).all() and value[1] == 0.5


@pytest.mark.slow
def test_the_triton_twins_compile_for_cards():
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "elementary_kernel.py"), "sm_90", "gfx942"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "gfx942 fp64 select" in done.stdout


def test_numbers_may_be_operands():
    x = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    assert hs.select(x > 0, 3.0, x).tolist() == [-1.0, 3.0]
    assert hs.select(x > 0, x, 3.0).tolist() == [3.0, 2.0]
    assert hs.maximum(x, 1.0).tolist() == [1.0, 2.0]
    assert hs.power(hs.relu(x), 2.0).tolist()[1] == 4.0
