// exp, log, sqrt, tanh, sigmoid, softplus, sin, cos and floor for model steps, each beside its adjoint twin. max,
// select and pow stand in math.h, overloads for duals in dual.h, the Triton twins in solve/triton/math.py and the torch
// forms in models/primitives.py. All follow this table; figures are for float, those for double in brackets.
//
// function         value at singular points                      gradient
// exp(x)           x beyond -83 or 83 (690) is taken as that:    e^x as it is returned, everywhere
//                  at most 1e36 (5e299)
// log(x)           x < tiny = 2^-60 (2^-500), an empty store,    1 / max(x, tiny): at most 2^60 (2^500)
//                  is taken as tiny: -41.6 (-346.6)
// sqrt(x)          x < tiny is taken as tiny: 2^-30 (2^-250)     1 / (2 sqrt(max(x, tiny))): at most 2^29 (2^249)
// pow(x, y)        x < tiny, a negative one too, is taken as     of x: y max(x, tiny)^(y - 1). At x = 0 it is 1 for
//                  tiny; at x = 0: 1e-18 (3e-151) for y = 1,     y = 1, tends to 0 for y > 1, is 0 for y = 0, and for
//                  9e-10 (6e-76) for y = 1/2, 1 for y = 0.       y < 1 large but finite: 5e8 (9e74) for y = 1/2; a
//                  The result stays in 2^-121 .. 2^121           model that meets that keeps x up with at_least.
//                  (2^-1001 .. 2^1001)                           Of y: x^y ln max(x, tiny)
// tanh(x)          -1 or 1 from |x| = 9 (19) on                  1 - r^2 of the result r: 0 where that is -1 or 1
// sigmoid(x)       1 from x = 17 (37) on, e^-83 (e^-690) below   r (1 - r) of the result r
//                  x = -83 (-690)
// softplus(x)      ln(1 + e^x): x from x = 17 (37) on, e^-83     sigmoid(x): 1/2 at 0
//                  (e^-690) below x = -83 (-690)
// sin(x), cos(x)   for |x| <= 1000, less accurate beyond         cos(x), -sin(x)
// floor(x)         for |x| <= 2^22 (2^51)                        none: it has no adjoint
// max(a, b)        the larger                                    to the larger, to a at a tie
// select(m, a, b)  where m is made of a NaN: b                   to the operand picked, none to what m is made of
//
// A NaN in any x, y, a or b is a NaN in the result.
//
// Largest relative error in epsilons (1.2e-7; 2.2e-16) over 640,000 numbers of each range, all instruction sets:
//           exp   log   sqrt  tanh  sigmoid  softplus  sin, cos  pow, |y| <= 6
//   float   0.8   1.6   0.5   1.6   1.3      2.3       1.5       2.8
//   double  0.8   2.3   0.5   1.9   1.3      3.0       1.5       3.4
// That of a gradient is as large; of tanh and sigmoid it is so in units of the largest, 1, as 1 - r cancels near r = 1.
#pragma once

#include "math.h"

namespace hs {
namespace HS_ISA {

template <class T> struct Constants;  // ln 2 = ln2_high + ln2_low: n ln2_high is exact for the n of exp_parts
template <> struct Constants<float> {
  static constexpr float ln2 = 0.693147181f, per_ln2 = 1.44269504f, per_pi = 0.318309886f;
  static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.428606765330187e-06f;
  static constexpr float largest_exponent = 83, saturation = 10;  // of exp, of tanh
};
template <> struct Constants<double> {
  static constexpr double ln2 = 0.69314718055994530942, per_ln2 = 1.4426950408889634074;
  static constexpr double per_pi = 0.31830988618379067154;
  static constexpr double ln2_high = 0.693147180559663, ln2_low = 2.8235290563031577e-13;
  static constexpr double largest_exponent = 690, saturation = 20;
};

// e^x as 2^n (1 + expm1), with x = n ln 2 + g and expm1 = e^g - 1. The polynomials interpolate at Chebyshev nodes of
// |g| <= ln 2 / 2, in e^g to 1.1e-8 (float) and 1.6e-17 (double): g + g^2 (even(g^2) + g odd(g^2)), two shorter chains.
template <class V> struct Exponential {
  V power, expm1;
};
template <class V> HS_FN Exponential<V> exp_parts(V x) {
  using T = typename Lane<V>::scalar;
  using C = Constants<T>;
  const V shifted = fma(x, splat<V>(C::per_ln2), splat<V>(Format<T>::magic));
  const V n = shifted - Format<T>::magic;
  const V g = fma(-n, splat<V>(C::ln2_low), fma(-n, splat<V>(C::ln2_high), x));
  const V square = g * g;
  V rest;
  if constexpr (sizeof(T) == 4) {
    constexpr T even[] = {0.5f, 0.04166655462f, 0.001392618359f}, odd[] = {0.1666657699f, 0.008363179053f};
    rest = fma(g, horner(square, odd), horner(square, even));
  } else {
    constexpr T even[] = {0.50000000000000010221, 0.041666666666624127873, 0.0013888888917213716901,
                          0.000024801521295954375131, 2.7620088445409748161e-7};
    constexpr T odd[] = {0.16666666666666667453, 0.0083333333333300618325, 0.00019841269863053616878,
                         2.7557268459997064772e-6, 2.5100385495510319078e-8};
    rest = fma(g, horner(square, odd), horner(square, even));
  }
  return {power_of_two(shifted), fma(square, rest, g)};
}

template <class V> HS_FN V exp(V x) {
  using C = Constants<typename Lane<V>::scalar>;
  const Exponential<V> e = exp_parts(at_most(at_least(x, -C::largest_exponent), C::largest_exponent));
  return fma(e.power, e.expm1, e.power);
}
template <class V> HS_FN V adj_exp(V, V r, V d_r) { return d_r * r; }

// Of a positive normal x.
template <class V> HS_FN V log_of_positive(V x) {
  using C = Constants<typename Lane<V>::scalar>;
  const Log2<V> l = log2_parts(x);
  return fma(l.exponent, splat<V>(C::ln2), l.fraction * C::ln2);
}
template <class V> HS_FN V log(V x) { return log_of_positive(at_least(x, Format<typename Lane<V>::scalar>::tiny)); }
template <class V> HS_FN V adj_log(V x, V, V d_r) { return d_r / at_least(x, Format<typename Lane<V>::scalar>::tiny); }

template <class V> HS_FN V sqrt(V x) { return square_root(at_least(x, Format<typename Lane<V>::scalar>::tiny)); }
template <class V> HS_FN V adj_sqrt(V, V r, V d_r) { return d_r * typename Lane<V>::scalar(0.5) / r; }

// t / (t + 2) with t = e^(2 x) - 1, which keeps the relative accuracy near x = 0.
template <class V> HS_FN V tanh(V x) {
  using T = typename Lane<V>::scalar;
  constexpr T limit = Constants<T>::saturation;
  const Exponential<V> e = exp_parts(at_most(at_least(x, -limit), limit) * T(2));
  const V t = fma(e.power, e.expm1, e.power - T(1));
  return t / (t + T(2));
}
template <class V> HS_FN V adj_tanh(V, V r, V d_r) { return d_r * fma(-r, r, splat<V>(1)); }

template <class V> HS_FN V sigmoid(V x) {
  using T = typename Lane<V>::scalar;
  return T(1) / (exp(-x) + T(1));
}
template <class V> HS_FN V adj_sigmoid(V, V r, V d_r) { return d_r * (r * (typename Lane<V>::scalar(1) - r)); }

// max(x, 0) + ln(1 + u) with u = e^-|x|. What the sum w = 1 + u rounds away is added to its logarithm.
template <class V> HS_FN V softplus(V x) {
  using T = typename Lane<V>::scalar;
  const V u = exp(below(x, -x)), w = u + T(1);
  return relu(x) + (log_of_positive(w) + (u - (w - T(1))) / w);
}
template <class V> HS_FN V adj_softplus(V x, V, V d_r) { return d_r * sigmoid(x); }

// x - n (parts[0] + parts[1] + ..): products with all parts but the last are exact for |n| <= 318 in halves.
template <class V, int N> HS_FN V reduced(V x, V n, const typename Lane<V>::scalar (&parts)[N]) {
  for (int i = 0; i < N; ++i) x = fma(-n, splat<V>(parts[i]), x);
  return x;
}
// (-1)^n sin r with x = (n - offset) pi + r, |r| <= pi / 2: sin x for offset 0 and cos x for offset 1/2. The polynomial
// interpolates at Chebyshev nodes of r^2, to 1.9e-8 (float) and 3.6e-17 (double) of the result.
template <class V> HS_FN V sine(V x, typename Lane<V>::scalar offset) {
  using T = typename Lane<V>::scalar;
  const V shifted = fma(x, splat<V>(Constants<T>::per_pi), splat<V>(offset)) + Format<T>::magic;
  const V n = (shifted - Format<T>::magic) - offset;
  V r, rest;
  if constexpr (sizeof(T) == 4) {
    constexpr T pi[] = {3.1416015625f, -8.909031748771667e-06f, 1.2154544037912274e-10f, -3.4302490200117637e-15f};
    constexpr T c[] = {-0.1666666666f, 0.008333332769f, -0.0001984108651f, 2.753645944e-6f, -2.408009509e-8f};
    r = reduced(x, n, pi), rest = horner(r * r, c);
  } else {
    constexpr T pi[] = {3.1415926534682512, 1.2154201012607932e-10, 4.044532497591901e-21};
    constexpr T c[] = {-0.16666666666666666633, 0.0083333333333333158566, -0.00019841269841254964881,
                       2.7557319219160832591e-6, -2.5052107616690449819e-8, 1.6058977292642742897e-10,
                       -7.643969663988074354e-13, 2.7314368769379891871e-15};
    r = reduced(x, n, pi), rest = horner(r * r, c);
  }
  const V s = fma(r * (r * r), rest, r);
  return from_bits<V>(as_bits(s) ^ (as_bits(shifted) << int(8 * sizeof(T) - 1)));
}
template <class V> HS_FN V sin(V x) { return sine(x, 0); }
template <class V> HS_FN V cos(V x) { return sine(x, 0.5); }
template <class V> HS_FN V adj_sin(V x, V, V d_r) { return d_r * cos(x); }
template <class V> HS_FN V adj_cos(V x, V, V d_r) { return -d_r * sin(x); }

template <class V> HS_FN V floor(V x) {
  using T = typename Lane<V>::scalar;
  const V n = (x + Format<T>::magic) - Format<T>::magic;
  return select(n <= x, n, n - T(1));
}

// What a step keeps for its adjoint, as keep_pow01.
#define HS_KEEP(f) \
  template <bool KNOWN, class V> HS_FN void keep_##f(V& r, V x) { if constexpr (!KNOWN) r = f(x); }
HS_KEEP(exp)
HS_KEEP(log)
HS_KEEP(sqrt)
HS_KEEP(tanh)
HS_KEEP(sigmoid)
HS_KEEP(softplus)
HS_KEEP(sin)
HS_KEEP(cos)
#undef HS_KEEP

}  // namespace HS_ISA
}  // namespace hs
