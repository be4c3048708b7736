// A dual number: a value and its derivatives along K directions, x + sum_k e_k dx_k with e_k e_l = 0. A model's step on
// duals carries tangents forward, so that the physics stands once. The rules at kinks are those of math.h and
// elementary.h: a tangent goes where the adjoint would take a cotangent from.
#pragma once

#include "elementary.h"

namespace hs {
namespace HS_ISA {

template <class V, int K> struct Dual {  // copied member by member, as a Pair is
  V v, d[K];
  Dual() = default;
  HS_FN Dual(V v_, const V (&d_)[K]) : v(v_) { put(d_); }
  HS_FN Dual(const Dual& x) : v(x.v) { put(x.d); }
  HS_FN Dual& operator=(const Dual& x) {
    v = x.v;
    put(x.d);
    return *this;
  }

 private:
  HS_FN void put(const V (&d_)[K]) {
    for (int k = 0; k < K; ++k) d[k] = d_[k];
  }
};
template <class V, int K> struct Lane<Dual<V, K>> {
  using scalar = typename Lane<V>::scalar;
  using integer = typename Lane<V>::integer;
  using bits = typename Lane<V>::bits;
};

template <class V, int K> HS_FN Dual<V, K> operator+(Dual<V, K> x, Dual<V, K> y) {
  x.v += y.v;
  for (int k = 0; k < K; ++k) x.d[k] += y.d[k];
  return x;
}
template <class V, int K> HS_FN Dual<V, K> operator-(Dual<V, K> x, Dual<V, K> y) {
  x.v -= y.v;
  for (int k = 0; k < K; ++k) x.d[k] -= y.d[k];
  return x;
}
template <class V, int K> HS_FN Dual<V, K> operator-(Dual<V, K> x) {
  x.v = -x.v;
  for (int k = 0; k < K; ++k) x.d[k] = -x.d[k];
  return x;
}
template <class V, int K> HS_FN Dual<V, K> operator*(Dual<V, K> x, Dual<V, K> y) {
  for (int k = 0; k < K; ++k) x.d[k] = fma(x.d[k], y.v, x.v * y.d[k]);
  x.v = x.v * y.v;
  return x;
}
template <class V, int K> HS_FN Dual<V, K> operator/(Dual<V, K> x, Dual<V, K> y) {
  const V q = x.v / y.v, per_y = typename Lane<V>::scalar(1) / y.v;
  for (int k = 0; k < K; ++k) x.d[k] = fma(-q, y.d[k], x.d[k]) * per_y;
  x.v = q;
  return x;
}
template <class V, int K> HS_FN Dual<V, K>& operator+=(Dual<V, K>& x, Dual<V, K> y) { return x = x + y; }
template <class V, int K> HS_FN Dual<V, K>& operator-=(Dual<V, K>& x, Dual<V, K> y) { return x = x - y; }

// With a constant.
template <class V, int K> HS_FN Dual<V, K> operator+(Dual<V, K> x, typename Lane<V>::scalar y) {
  x.v = x.v + y;
  return x;
}
template <class V, int K> HS_FN Dual<V, K> operator+(typename Lane<V>::scalar x, Dual<V, K> y) { return y + x; }
template <class V, int K> HS_FN Dual<V, K> operator-(Dual<V, K> x, typename Lane<V>::scalar y) {
  x.v = x.v - y;
  return x;
}
template <class V, int K> HS_FN Dual<V, K> operator-(typename Lane<V>::scalar x, Dual<V, K> y) {
  y = -y;
  y.v = y.v + x;
  return y;
}
template <class V, int K> HS_FN Dual<V, K> operator*(Dual<V, K> x, typename Lane<V>::scalar y) {
  x.v = x.v * y;
  for (int k = 0; k < K; ++k) x.d[k] = x.d[k] * y;
  return x;
}
template <class V, int K> HS_FN Dual<V, K> operator*(typename Lane<V>::scalar x, Dual<V, K> y) { return y * x; }
template <class V, int K> HS_FN Dual<V, K> operator/(Dual<V, K> x, typename Lane<V>::scalar y) {
  x.v = x.v / y;
  for (int k = 0; k < K; ++k) x.d[k] = x.d[k] / y;
  return x;
}
template <class V, int K> HS_FN Dual<V, K> operator/(typename Lane<V>::scalar x, Dual<V, K> y) {
  const V q = x / y.v, factor = -q / y.v;
  for (int k = 0; k < K; ++k) y.d[k] = factor * y.d[k];
  y.v = q;
  return y;
}

#define HS_DUAL_COMPARISON(op) \
  template <class V, int K> HS_FN auto operator op(Dual<V, K> x, Dual<V, K> y) -> decltype(x.v op y.v) { return x.v op y.v; }
HS_DUAL_COMPARISON(<)
HS_DUAL_COMPARISON(>)
HS_DUAL_COMPARISON(<=)
HS_DUAL_COMPARISON(>=)
#undef HS_DUAL_COMPARISON

template <class M, class V, int K> HS_FN Dual<V, K> select(M mask, Dual<V, K> x, Dual<V, K> y) {
  x.v = select(mask, x.v, y.v);
  for (int k = 0; k < K; ++k) x.d[k] = select(mask, x.d[k], y.d[k]);
  return x;
}
template <class V, int K> HS_FN Dual<V, K> fma(Dual<V, K> x, Dual<V, K> y, Dual<V, K> z) {
  for (int k = 0; k < K; ++k) z.d[k] = fma(x.d[k], y.v, fma(x.v, y.d[k], z.d[k]));
  z.v = fma(x.v, y.v, z.v);
  return z;
}
template <class V, int K> HS_FN Dual<V, K> min(Dual<V, K> a, Dual<V, K> b) {
  const auto first = a.v <= b.v;
  for (int k = 0; k < K; ++k) a.d[k] = select(first, a.d[k], b.d[k]);
  a.v = min(a.v, b.v);
  return a;
}
template <class V, int K> HS_FN Dual<V, K> max(Dual<V, K> a, Dual<V, K> b) {
  const auto first = a.v >= b.v;
  for (int k = 0; k < K; ++k) a.d[k] = select(first, a.d[k], b.d[k]);
  a.v = max(a.v, b.v);
  return a;
}
template <class V, int K> HS_FN Dual<V, K> above(Dual<V, K> a, Dual<V, K> b) {
  return select(a.v > b.v, a, b);
}
template <class V, int K> HS_FN Dual<V, K> at_least(Dual<V, K> x, typename Lane<V>::scalar floor) {
  for (int k = 0; k < K; ++k) x.d[k] = select(x.v >= splat<V>(floor), x.d[k], V{});
  x.v = at_least(x.v, floor);
  return x;
}
template <class V, int K> HS_FN Dual<V, K> at_most(Dual<V, K> x, typename Lane<V>::scalar ceiling) {
  for (int k = 0; k < K; ++k) x.d[k] = select(x.v <= splat<V>(ceiling), x.d[k], V{});
  x.v = at_most(x.v, ceiling);
  return x;
}
template <class V, int K> HS_FN Dual<V, K> quotient(Dual<V, K> x, Dual<V, K> y, Dual<V, K> per_y) {
  const V q = quotient(x.v, y.v, per_y.v);
  for (int k = 0; k < K; ++k) x.d[k] = fma(-q, y.d[k], x.d[k]) * per_y.v;
  x.v = q;
  return x;
}
template <class V, int K> HS_FN Dual<V, K> log2(Dual<V, K> x) {
  for (int k = 0; k < K; ++k) x.d[k] = x.d[k] * typename Lane<V>::scalar(1.4426950408889634074) / x.v;
  x.v = log2(x.v);
  return x;
}
template <class V, int K> HS_FN Dual<V, K> exp2(Dual<V, K> x) {
  x.v = exp2(x.v);
  for (int k = 0; k < K; ++k) x.d[k] = x.d[k] * x.v * typename Lane<V>::scalar(0.69314718055994530942);
  return x;
}

// Of what a step keeps the tangents are made here, from values that are made here too or known already.
template <bool KNOWN, class V, int K> HS_FN void keep_reciprocal(Dual<V, K>& r, Dual<V, K> x) {
  if constexpr (!KNOWN) r.v = typename Lane<V>::scalar(1) / x.v;
  for (int k = 0; k < K; ++k) r.d[k] = -r.v * r.v * x.d[k];
}
// Of the base the value's logarithm is taken, and the tangents follow from the base itself.
template <class V, int K> struct Log2<Dual<V, K>> {
  Log2<V> of_value;
  Dual<V, K> x;
};
template <class V, int K> HS_FN Log2<Dual<V, K>> base_log2(Dual<V, K> x) { return {base_log2(x.v), x}; }
template <class V, int K>  // slope: of x^y by y ln x
HS_FN void put_power(Power<Dual<V, K>>& r, Dual<V, K> x, Dual<V, K> y, const Power<V>& p, V slope) {
  using T = typename Lane<V>::scalar;
  r.log2_x.v = p.log2_x, r.value.v = p.value;
  const V by_y = slope * p.log2_x * T(0.69314718055994530942), by_x = slope * y.v / at_least(x.v, Format<T>::tiny);
  for (int k = 0; k < K; ++k) r.value.d[k] = fma(by_x, x.d[k], by_y * y.d[k]);
}
template <bool KNOWN, class V, int K>
HS_FN void keep_pow(Power<Dual<V, K>>& r, const Log2<Dual<V, K>>& x, Dual<V, K> y) {
  Power<V> p{r.log2_x.v, r.value.v};
  keep_pow<KNOWN>(p, x.of_value, y.v);
  put_power(r, x.x, y, p, p.value);
}
template <bool KNOWN, class V, int K>
HS_FN void keep_pow01(Power<Dual<V, K>>& r, const Log2<Dual<V, K>>& x, Dual<V, K> y) {
  Power<V> p{r.log2_x.v, r.value.v};
  keep_pow01<KNOWN>(p, x.of_value, y.v);
  put_power(r, x.x, y, p, select(p.log2_x <= V{}, p.value, V{}));
}
template <bool KNOWN, class V, int K> HS_FN void keep_pow(Power<Dual<V, K>>& r, Dual<V, K> x, Dual<V, K> y) {
  keep_pow<KNOWN>(r, base_log2(x), y);
}
template <bool KNOWN, class V, int K> HS_FN void keep_pow01(Power<Dual<V, K>>& r, Dual<V, K> x, Dual<V, K> y) {
  keep_pow01<KNOWN>(r, base_log2(x), y);
}
template <class V, int K> HS_FN Power<Dual<V, K>> pow(const Log2<Dual<V, K>>& x, Dual<V, K> y) {
  Power<Dual<V, K>> r{};
  keep_pow<false>(r, x, y);
  return r;
}
template <class V, int K> HS_FN Power<Dual<V, K>> pow(Dual<V, K> x, Dual<V, K> y) { return pow(base_log2(x), y); }

// A function of one argument multiplies a tangent by the slope that its adjoint multiplies a cotangent by.
#define HS_DUAL_FUNCTION(f)                                                                 \
  template <bool KNOWN, class V, int K> HS_FN void keep_##f(Dual<V, K>& r, Dual<V, K> x) {  \
    keep_##f<KNOWN>(r.v, x.v);                                                              \
    for (int k = 0; k < K; ++k) r.d[k] = adj_##f(x.v, r.v, x.d[k]);                         \
  }                                                                                         \
  template <class V, int K> HS_FN Dual<V, K> f(Dual<V, K> x) {                              \
    Dual<V, K> r;                                                                           \
    keep_##f<false>(r, x);                                                                  \
    return r;                                                                               \
  }
HS_DUAL_FUNCTION(exp)
HS_DUAL_FUNCTION(log)
HS_DUAL_FUNCTION(sqrt)
HS_DUAL_FUNCTION(tanh)
HS_DUAL_FUNCTION(sigmoid)
HS_DUAL_FUNCTION(softplus)
HS_DUAL_FUNCTION(sin)
HS_DUAL_FUNCTION(cos)
#undef HS_DUAL_FUNCTION
template <class V, int K> HS_FN Dual<V, K> floor(Dual<V, K> x) {
  x.v = floor(x.v);
  for (int k = 0; k < K; ++k) x.d[k] = V{};
  return x;
}

}  // namespace HS_ISA
}  // namespace hs
