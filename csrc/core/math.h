// The elementary functions of the models, each beside its adjoint twin. V is a pack of lanes or a scalar.
//
// An adjoint twin adj_f takes f's arguments, the cotangent d_r of the result, and adds (+=) to the cotangents of the
// arguments. The rules at kinks, decided here for all backends:
//   min, max    the gradient goes to the operand that the forward picked, the first one at a tie;
//   at_least, at_most, relu    x against a constant: x has the gradient at a tie;
//   select      the gradient goes to the operand that the mask picked, and none to what the mask was made of;
//   pow01       clip(x^y, 0, 1) passes the gradient where x^y = 1.
// A NaN in any operand of any function is a NaN in its result. A comparison with a NaN is false: select then picks its
// second operand. elementary.h has exp, log, tanh and their like.
#pragma once

#include "pair.h"

namespace hs {
namespace HS_ISA {

template <class V> HS_FN V min(V a, V b) { return select(a != a, a, below(a, b)); }
template <class V> HS_FN void adj_min(V a, V b, V d_r, V& d_a, V& d_b) {
  d_a = select(a <= b, d_a + d_r, d_a);  // a masked addition, where adding a selected zero would be two operations
  d_b = select(a <= b, d_b, d_b + d_r);
}

HS_FN bool no(bool mask) { return !mask; }
template <class M> HS_FN M no(M mask) { return ~mask; }

template <class V> HS_FN V max(V a, V b) { return select(a != a, a, above(a, b)); }
template <class V> HS_FN void adj_max(V a, V b, V d_r, V& d_a, V& d_b) {
  d_a = select(a >= b, d_a + d_r, d_a);
  d_b = select(a >= b, d_b, d_b + d_r);
}
template <class M, class V> HS_FN void adj_select(M mask, V d_r, V& d_a, V& d_b) {
  d_a = select(mask, d_a + d_r, d_a);
  d_b = select(mask, d_b, d_b + d_r);
}

// Against a constant only x can be NaN, and below/above return their second operand then.
template <class V> HS_FN V at_least(V x, typename Lane<V>::scalar floor) { return above(splat<V>(floor), x); }
template <class V> HS_FN V at_most(V x, typename Lane<V>::scalar ceiling) { return below(splat<V>(ceiling), x); }
template <class V> HS_FN V adj_at_least(V x, typename Lane<V>::scalar floor, V d_r) {
  return select(x >= splat<V>(floor), d_r, V{});
}
template <class V> HS_FN V adj_at_most(V x, typename Lane<V>::scalar ceiling, V d_r) {
  return select(x <= splat<V>(ceiling), d_r, V{});
}
template <class V> HS_FN V relu(V x) { return at_least(x, 0); }
template <class V> HS_FN V adj_relu(V x, V d_r) { return select(x >= V{}, d_r, V{}); }

template <class A, class B> HS_FN void copy_bits(A& to, const B& from) { __builtin_memcpy(&to, &from, sizeof to); }
template <class A, class B> HS_FN void copy_bits(Pair<A>& to, const Pair<B>& from) {
  copy_bits(to.a, from.a);
  copy_bits(to.b, from.b);
}
template <class V> HS_FN typename Lane<V>::bits as_bits(V x) {
  typename Lane<V>::bits b;
  copy_bits(b, x);
  return b;
}
template <class V> HS_FN V from_bits(typename Lane<V>::bits b) {
  V x;
  copy_bits(x, b);
  return x;
}

// c[0] + c[1] x + ... by Horner's rule.
template <class V, int N> HS_FN V horner(V x, const typename Lane<V>::scalar (&c)[N]) {
  V r = splat<V>(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) r = fma(r, x, splat<V>(c[i]));
  return r;
}

// The same in halves, these in halves and so on (Estrin), with the powers x, x^2, x^4, ..: a chain of log2 N fused
// steps, where Horner's has N. It is a little more work, but a step of a model is one long chain that a processor waits
// for.
template <int N, class V> HS_FN V halves(const V* power, const typename Lane<V>::scalar* c) {
  if constexpr (N == 1) return splat<V>(c[0]);
  else if constexpr (N == 2) return fma(power[0], splat<V>(c[1]), splat<V>(c[0]));
  else {
    constexpr int level = N > 8 ? 3 : N > 4 ? 2 : 1, half = 1 << level;
    return fma(halves<N - half>(power, c + half), power[level], halves<half>(power, c));
  }
}
template <class V, int N> HS_FN V estrin(V x, const typename Lane<V>::scalar (&c)[N]) {
  static_assert(N > 2 && N <= 16, "the powers end at x^8");
  V power[4] = {x, x * x, V{}, V{}};
  if constexpr (N > 4) power[2] = power[1] * power[1];
  if constexpr (N > 8) power[3] = power[2] * power[2];
  return halves<N>(power, c);
}

// The polynomials below interpolate at Chebyshev nodes of the reduced range, in relative error:
// log2 3.0e-8 (float), 1.2e-18 (double); 2^x 2.6e-9 (float), 4.3e-18 (double).
template <class T> struct Format;
template <> struct Format<float> {
  static constexpr int mantissa = 23;
  static constexpr int32_t sqrt_half = 0x3f3504f3, mantissa_mask = 0x007fffff;
  static constexpr float magic = 12582912.0f;     // 1.5 * 2^23: adding it rounds to an integer held in the low bits
  static constexpr float tiny = 8.673617379884035e-19f;  // 2^-60, see pow01
  static constexpr float lowest_exponent = -120.0f;
};
template <> struct Format<double> {
  static constexpr int mantissa = 52;
  static constexpr int64_t sqrt_half = 0x3fe6a09e667f3bcdLL, mantissa_mask = 0x000fffffffffffffLL;
  static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double tiny = 3.054936363499605e-151;  // 2^-500
  static constexpr double lowest_exponent = -1000.0;
};

// x / y, given 1 / y to a few ulp: two fused steps where a division would be ten. Exactly 1 where x = y, so that a full
// store is seen as full.
template <class V> HS_FN V quotient(V x, V y, V per_y) {
#if defined(HS_NO_FMA)
  return x / y;
#else
  const V q = x * per_y;
  return fma(fma(-q, y, x), per_y, q);
#endif
}

// log2 of a positive normal x = m 2^exponent, m in [sqrt(1/2), sqrt(2)), as the exponent and log2 m: their sum would
// round away what the smaller one holds.
template <class V> struct Log2 {
  V exponent, fraction;
};
template <class V> HS_FN Log2<V> log2_parts(V x) {
  using T = typename Lane<V>::scalar;
  using F = Format<T>;
  const auto shifted = as_bits(x) - F::sqrt_half;
  const V scale = from_bits<V>(as_bits(T(1)) - (shifted & ~F::mantissa_mask));  // 2^-exponent
  const V t = fma(x, scale, splat<V>(-1));                                      // of x itself, so that a NaN stays
  Log2<V> r;
  r.exponent = from_bits<V>((shifted >> F::mantissa) + as_bits(T(F::magic))) - F::magic;
  if constexpr (sizeof(T) == 4) {
    constexpr T c[] = {-0.7213474682f, 0.4809107535f, -0.3606932681f, 0.2879032609f,
                       -0.2391698814f, 0.2160782255f, -0.2058618805f, 0.1231096847f};
    r.fraction = fma(t * t, estrin(t, c), t * T(1.442695004f));
  } else {  // log2 m = 2 atanh(s) / ln 2 with s = (m - 1) / (m + 1)
    constexpr T c[] = {0.96179669392598972877, 0.5770780163455202295,  0.41219858584090053448, 0.32059853491395986095,
                       0.26233435250418301904, 0.22091308423117679618, 0.21365895694319269427};
    const V s = t / (t + T(2)), square = s * s;
    r.fraction = fma(s * square, estrin(square, c), s * T(2.8853900817779268115));
  }
  return r;
}
template <class V> HS_FN V log2(V x) {
  const Log2<V> r = log2_parts(x);
  return r.exponent + r.fraction;
}

// 2^f for f in [-1/2, 1/2].
template <class V> HS_FN V exp2_reduced(V f) {
  using T = typename Lane<V>::scalar;
  if constexpr (sizeof(T) == 4) {
    constexpr T c[] = {0.6931472067f, 0.2402265092f, 0.05550327227f, 0.009618056679f, 0.001340042818f, 0.000154614447f};
    return fma(f, estrin(f, c), splat<V>(1));
  } else {
    constexpr T c[] = {0.69314718055994530925,
                       0.24022650695910159567,
                       0.055504108664821627039,
                       0.0096181291075872566681,
                       0.0013333558146406470697,
                       0.00015403530463724354209,
                       0.000015252733841556772589,
                       1.3215432535912376166e-6,
                       1.0178057087733941105e-7,
                       7.0741942972885210056e-9,
                       4.455817908336064493e-10};
    return fma(f, estrin(f, c), splat<V>(1));
  }
}
// 2^n for a whole n, given n + magic.
template <class V> HS_FN V power_of_two(V n_plus_magic) {
  using T = typename Lane<V>::scalar;
  return from_bits<V>((as_bits(n_plus_magic) << Format<T>::mantissa) + as_bits(T(1)));
}
// 2^z for z in [lowest_exponent, 120].
template <class V> HS_FN V exp2(V z) {
  using F = Format<typename Lane<V>::scalar>;
  const V shifted = z + F::magic;
  return exp2_reduced(z - (shifted - F::magic)) * power_of_two(shifted);
}

// pow(x, y) = x^y and pow01(x, y) = clip(x^y, 0, 1), as 2^(y log2 x). The product is taken with both parts of the
// logarithm, so the relative error is about y times half an ulp: 5e-7 in float and 1e-15 in double at y = 6. Without a
// fused product that of pow01 is |y log2 x| / 3 ulp more.
// An empty store is taken as x = 2^-60 (float) or 2^-500 (double): the result and the gradient stay finite there,
// the result is far below rounding, and the gradient has x^y's limits (1 at y = 1, 0 at y of 1.1 and more).
// pow01 is for y > 0. pow takes any y; its result stays in 2^-121 .. 2^121 (float) or 2^-1001 .. 2^1001 (double).
template <class V> struct Power {
  V log2_x, value;  // all that the adjoint needs, and worth keeping for it
};
template <class V> using Pow01 = Power<V>;
// y e - n for a whole number e, rounded once: without a fused product by the halves of y, whose products are exact.
template <class V> HS_FN V less_whole(V y, V e, V n) {
#if defined(HS_NO_FMA)
  using T = typename Lane<V>::scalar;
  constexpr typename Lane<T>::bits low = (typename Lane<T>::bits(1) << (Format<T>::mantissa / 2 + 1)) - 1;
  const V high = from_bits<V>(as_bits(y) & ~low);
  return (high * e - n) + (y - high) * e;
#else
  return fma(y, e, -n);
#endif
}
// The logarithm of x, and of it and y the power: two halves of one long chain, where a stage of a step may end.
template <class V> HS_FN Log2<V> base_log2(V x) { return log2_parts(at_least(x, Format<typename Lane<V>::scalar>::tiny)); }
template <bool ABOVE_1, class V> HS_FN Power<V> power(const Log2<V>& l, V y) {
  using T = typename Lane<V>::scalar;
  using F = Format<T>;
  const V whole = y * l.exponent;
  V exponent = at_least(fma(y, l.fraction, whole), F::lowest_exponent);
  if constexpr (ABOVE_1) exponent = at_most(exponent, -F::lowest_exponent);
  const V shifted = exponent + F::magic;
  const V n = shifted - F::magic;
  // What is left after n; far from -1/2 .. 1/2 only where the exponent was bounded.
  const V rest = ABOVE_1 ? less_whole(y, l.exponent, n) : fma(y, l.exponent, -n);
  V f = at_least(fma(y, l.fraction, rest), T(ABOVE_1 ? -1 : -0.5));
  if constexpr (ABOVE_1) f = at_most(f, 1);
  const V value = exp2_reduced(f) * power_of_two(shifted);
  return {l.exponent + l.fraction, ABOVE_1 ? value : at_most(value, 1)};
}
template <class V> HS_FN Power<V> pow(const Log2<V>& x, V y) { return power<true>(x, y); }
template <class V> HS_FN Power<V> pow01(const Log2<V>& x, V y) { return power<false>(x, y); }
template <class V> HS_FN Power<V> pow(V x, V y) { return pow(base_log2(x), y); }
template <class V> HS_FN Power<V> pow01(V x, V y) { return pow01(base_log2(x), y); }
// What a step keeps for its adjoint: made here, or known already.
template <bool KNOWN, class V> HS_FN void keep_reciprocal(V& r, V x) {
  if constexpr (!KNOWN) r = typename Lane<V>::scalar(1) / x;
}
template <bool KNOWN, class V, class X> HS_FN void keep_pow(Power<V>& r, const X& x, V y) {  // of x or its base_log2
  if constexpr (!KNOWN) r = pow(x, y);
}
template <bool KNOWN, class V, class X> HS_FN void keep_pow01(Power<V>& r, const X& x, V y) {
  if constexpr (!KNOWN) r = pow01(x, y);
}
// These add to the cotangent of y and return the cotangent of ln x, from which the caller makes those of x's factors:
// that of x itself is d_ln_x / at_least(x, tiny).
template <class V> HS_FN V adj_exponent(V log2_x, V y, V d_exponent, V& d_y) {
  d_y = fma(d_exponent * typename Lane<V>::scalar(0.69314718055994530942), log2_x, d_y);
  return d_exponent * y;
}
template <class V> HS_FN V adj_pow(const Power<V>& r, V y, V d_r, V& d_y) {
  return adj_exponent(r.log2_x, y, d_r * r.value, d_y);
}
template <class V> HS_FN V adj_pow01(const Power<V>& r, V y, V d_r, V& d_y) {
  return adj_exponent(r.log2_x, y, select(r.log2_x <= V{}, d_r * r.value, V{}), d_y);
}

// lower + span / (1 + exp(-x)): a learned parameter from what a network puts out. From |x| = 83 on the
// sigmoid is taken as that of 83, 1e-36 from its limit. Its relative error grows with -x: sigmoid of elementary.h is
// for models, this one for a number that is added to `lower`.
template <class V> HS_FN V scaling_sigmoid(V x) {
  using T = typename Lane<V>::scalar;
  const V z = at_most(at_least(x * T(-1.4426950408889634074), T(-120)), T(120));
  return T(1) / (exp2(z) + T(1));
}
template <class V> HS_FN V scaled(V x, typename Lane<V>::scalar lower, typename Lane<V>::scalar span) {
  return scaling_sigmoid(x) * span + lower;
}
template <class V> HS_FN V adj_scaled(V x, typename Lane<V>::scalar span, V d_r) {
  using T = typename Lane<V>::scalar;
  const V u = scaling_sigmoid(x);
  return d_r * span * (u * (T(1) - u));
}

}  // namespace HS_ISA
}  // namespace hs
