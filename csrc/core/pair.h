// Two packs side by side, as one value type. One step of a model is a long chain of dependent operations: a processor
// waits in it for results. With two independent chains interleaved, operation by operation, it has work in between.
#pragma once

#include "pack.h"

namespace hs {
namespace HS_ISA {

// Copied member by member: g++ 12 copies a plain struct of AVX2's packs in pieces of 16 bytes, half of each through the
// integer registers.
template <class V> struct Pair {
  V a, b;
  Pair() = default;
  HS_FN Pair(V a_, V b_) : a(a_), b(b_) {}
  HS_FN Pair(const Pair& x) : a(x.a), b(x.b) {}
  HS_FN Pair& operator=(const Pair& x) {
    a = x.a, b = x.b;
    return *this;
  }
};

#define HS_PAIR_OPERATOR(op)                                                                                       \
  template <class V> HS_FN auto operator op(Pair<V> x, Pair<V> y) -> Pair<decltype(x.a op y.a)> {                  \
    return {x.a op y.a, x.b op y.b};                                                                               \
  }                                                                                                                \
  template <class V> HS_FN auto operator op(Pair<V> x, typename Lane<V>::scalar y) -> Pair<decltype(x.a op y)> {   \
    return {x.a op y, x.b op y};                                                                                   \
  }                                                                                                                \
  template <class V> HS_FN auto operator op(typename Lane<V>::scalar x, Pair<V> y) -> Pair<decltype(x op y.a)> {   \
    return {x op y.a, x op y.b};                                                                                   \
  }
HS_PAIR_OPERATOR(+)
HS_PAIR_OPERATOR(-)
HS_PAIR_OPERATOR(*)
HS_PAIR_OPERATOR(/)
HS_PAIR_OPERATOR(&)
HS_PAIR_OPERATOR(|)
HS_PAIR_OPERATOR(^)
HS_PAIR_OPERATOR(>>)
HS_PAIR_OPERATOR(<<)
HS_PAIR_OPERATOR(<)
HS_PAIR_OPERATOR(>)
HS_PAIR_OPERATOR(<=)
HS_PAIR_OPERATOR(>=)
HS_PAIR_OPERATOR(!=)
#undef HS_PAIR_OPERATOR

template <class V> HS_FN Pair<V> operator-(Pair<V> x) { return {-x.a, -x.b}; }
template <class V> HS_FN Pair<V> operator~(Pair<V> x) { return {~x.a, ~x.b}; }
template <class V> HS_FN Pair<V>& operator+=(Pair<V>& x, Pair<V> y) { return x = x + y; }
template <class V> HS_FN Pair<V>& operator-=(Pair<V>& x, Pair<V> y) { return x = x - y; }
template <class V> HS_FN Pair<V>& operator|=(Pair<V>& x, Pair<V> y) { return x = {x.a | y.a, x.b | y.b}; }

template <class M, class V> HS_FN Pair<V> select(Pair<M> mask, Pair<V> x, Pair<V> y) {
  return {select(mask.a, x.a, y.a), select(mask.b, x.b, y.b)};
}
template <class V> HS_FN Pair<V> fma(Pair<V> x, Pair<V> y, Pair<V> z) { return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)}; }
template <class V> HS_FN Pair<V> below(Pair<V> x, Pair<V> y) { return {below(x.a, y.a), below(x.b, y.b)}; }
template <class V> HS_FN Pair<V> above(Pair<V> x, Pair<V> y) { return {above(x.a, y.a), above(x.b, y.b)}; }
template <class V> HS_FN Pair<V> square_root(Pair<V> x) { return {square_root(x.a), square_root(x.b)}; }
template <class M> HS_FN bool any(Pair<M> mask) { return any(mask.a) || any(mask.b); }

template <class V> struct Lane<Pair<V>> {
  using scalar = typename Lane<V>::scalar;
  using integer = typename Lane<V>::integer;
  using bits = Pair<typename Lane<V>::bits>;
};
#if !defined(HS_CUDA)
template <class V> HS_FN void read(Pair<V>& v, const typename Lane<V>::scalar* from) {
  read(v.a, from);
  read(v.b, from + sizeof(V) / sizeof(*from));
}
template <class V> HS_FN void store(typename Lane<V>::scalar* to, Pair<V> v) {
  store(to, v.a);
  store(to + sizeof(V) / sizeof(*to), v.b);
}
template <> struct Lane<i32> { using scalar = int32_t; };
template <> struct Lane<i64> { using scalar = int64_t; };
#endif

}  // namespace HS_ISA
}  // namespace hs
