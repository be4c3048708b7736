"""The elementary functions of csrc/core/math.h against libm, compiled for each instruction set at hand."""

import shutil
import subprocess

import pytest
from conftest import ROOT

FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}
CODE = r"""
#include "core/math.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>

using namespace hs;
using namespace hs::HS_ISA;

static int failures = 0;
static void check(bool ok, const char* what, double at, double found, double expected) {
  if (!ok && ++failures < 20) printf("%s at %.17g: found %.17g, expected %.17g\n", what, at, found, expected);
}

template <class V, class T> void run(const char* precision) {
  const double eps = std::numeric_limits<T>::epsilon();
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const bool single = sizeof(T) == 4;
  auto relative = [](double found, double exact) { return std::abs(found - exact) / std::abs(exact); };
  auto uniform = [] { return rand() / (RAND_MAX + 1.0); };
  printf("%s\n", precision);

  double worst_log2 = 0, worst_exp2 = 0, worst_pow = 0;
  for (int i = 0; i < 200000; ++i) {
    const double range = i % 2 ? 2 : single ? 120 : 990;
    const T x = T(std::exp2((uniform() * 2 - 1) * range)), z = T((i % 3 == 0) - uniform() * (range - 1));
    const double l = log2(splat<V>(x))[0], e = exp2(splat<V>(z))[0];
    if (x != 1) worst_log2 = std::fmax(worst_log2, relative(l, std::log2((long double)x)) / eps);
    worst_exp2 = std::fmax(worst_exp2, relative(e, std::exp2((long double)z)) / eps);

    const T u = T(uniform()), y = T(0.3 + 5.7 * uniform());
    const double p = pow01(splat<V>(u), splat<V>(y)).value[0], product = std::abs(y * std::log2((double)u));
    if (u > 0 && product < (single ? 119 : 990))
      worst_pow = std::fmax(worst_pow, relative(p, std::pow((long double)u, y)) / (eps * (4 + product)));
  }
  check(worst_log2 < 4, "log2, in eps", 0, worst_log2, 4);
  check(worst_exp2 < 4, "exp2, in eps", 0, worst_exp2, 4);
  check(worst_pow < 1, "pow01, in eps (4 + |y log2 x|)", 0, worst_pow, 1);
  for (int n = single ? -120 : -1000; n <= 60; ++n) {
    const T power = std::ldexp(T(1), n), e = exp2(splat<V>(T(n)))[0], l = log2(splat<V>(power))[0];
    check(n > 1 || e == power, "exp2 of a whole number", n, e, power);
    check(l == n, "log2 of a power of two", n, l, n);
  }

  for (double y : {0.3, 1.0, 6.0}) {
    auto power = [&](double x) { return double(pow01(splat<V>(T(x)), splat<V>(T(y))).value[0]); };
    check(power(1) == 1, "pow01 of 1", y, power(1), 1);
    check(power(1.5) == 1, "pow01 above 1", y, power(1.5), 1);
    check(power(1e4) == 1, "pow01 far above 1", y, power(1e4), 1);
    check(power(0) >= 0 && power(0) < 1e-5, "pow01 of 0", y, power(0), 0);
    check(power(1e-30) >= 0 && power(1e-30) < 1e-5, "pow01 of next to nothing", y, power(1e-30), 0);
    check(std::isnan(power(NAN)), "pow01 of NaN", y, power(NAN), NAN);
  }
  check(std::isnan(pow01(splat<V>(T(0.5)), splat<V>(nan)).value[0]), "pow01 to NaN", 0, 0, NAN);

  const T values[] = {T(-2), T(-1), T(0), T(1), T(3), nan};
  for (T a : values) {
    const V va = splat<V>(a);
    auto expect = [&](const char* what, T found, double expected) {
      check(std::isnan(a) ? std::isnan(found) : found == T(expected), what, a, found, expected);
    };
    expect("relu", relu(va)[0], a > 0 ? a : 0);
    expect("at_least", at_least(va, T(1))[0], a > 1 ? a : 1);
    expect("at_most", at_most(va, T(1))[0], a < 1 ? a : 1);
    for (T b : values) {
      const T found = min(va, splat<V>(b))[0];
      const bool either = std::isnan(a) || std::isnan(b);
      check(either ? std::isnan(found) : found == (a <= b ? a : b), "min", a, found, b);
      V d_a{}, d_b{};
      adj_min(va, splat<V>(b), splat<V>(T(1)), d_a, d_b);
      check(d_a[0] == (a <= b) && d_b[0] == !(a <= b), "adj_min", a, d_a[0], b);
    }
    const T passed = adj_relu(va, splat<V>(T(1)))[0];
    const T chosen = select(va >= V{}, splat<V>(T(7)), splat<V>(T(8)))[0];
    check(passed == (a >= 0), "adj_relu", a, passed, a >= 0);
    check(chosen == (a >= 0 ? 7 : 8), "select", a, chosen, 0);
  }
}

int main() {
  run<f32, float>("float");
  run<f64, double>("double");
  return failures != 0;
}
"""


@pytest.mark.parametrize("isa", FLAGS)
def test_elementary_functions(isa, tmp_path):
    from hybridsolve import _cpu

    compiler = shutil.which("g++")
    if not compiler:
        pytest.skip("g++ is not installed")
    if isa not in _cpu.isas():
        pytest.skip(f"{isa} is not in this build or not on this processor")
    source, program = tmp_path / "math.cpp", tmp_path / "math"
    source.write_text(CODE)
    built = subprocess.run(
        [
            compiler,
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-Wno-psabi",
            f"-DHS_ISA={isa}",
            *FLAGS[isa],
            "-I",
            str(ROOT / "csrc"),
            str(source),
            "-o",
            str(program),
        ],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
