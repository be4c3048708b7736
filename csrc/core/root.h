// What the kernels of a step that solves equations have beside those of others (hybridsolve/compiler/implicit.py).
//
// Newton's iterations are of values alone, also where a step carries tangents: these follow from the root and its
// Jacobian, by `moved`.
#pragma once

#include "model.h"

namespace hs {
namespace HS_ISA {

template <class V> struct Plain {
  using type = V;
};
template <class V, int K> struct Plain<Dual<V, K>> {
  using type = V;
};
template <class V> HS_FN V plain(V x) { return x; }
template <class V, int K> HS_FN V plain(Dual<V, K> x) { return x.v; }
template <class V> HS_FN V constant(typename Plain<V>::type x) {
  if constexpr (sizeof(V) == sizeof(x)) return x;
  else {
    V r{};
    r.v = x;
    return r;
  }
}
template <class V> HS_FN V frozen(V x) { return x; }
template <class V> HS_FN V moved(V x, V) { return x; }
template <class V, int K> HS_FN Dual<V, K> frozen(Dual<V, K> x) { return constant<Dual<V, K>>(x.v); }
template <class V, int K> HS_FN Dual<V, K> moved(Dual<V, K> x, Dual<V, K> by) {
  for (int k = 0; k < K; ++k) x.d[k] += by.d[k];
  return x;
}
template <class V> constexpr bool is_dual = sizeof(V) != sizeof(typename Plain<V>::type);

template <class V, class M> HS_FN void note_residual(V& beyond, M found, typename Plain<V>::type residual) {
  const auto before = plain(beyond);
  beyond = select(found | (before > decltype(before){}), beyond, constant<V>(residual));
}

template <class V> HS_FN V size_of(V x) { return above(x, -x); }
// How far a residual may be off at a root where the unknown is x: 8 spacings of x or of 1 mm, in double far below 1e-10 mm.
// And what rounding may leave of an unknown where its equations are steep.
template <class V> HS_FN V residual_allowed(V x) {
  using T = typename Lane<V>::scalar;
  return at_least(size_of(x), 1) * T(sizeof(T) == 4 ? 0x1p-20 : 0x1p-49);
}
template <class V> HS_FN V step_allowed(V x) { return residual_allowed(x) * typename Lane<V>::scalar(0.5); }
// The size of a residual where it is more than is allowed, else 0.
template <class V> HS_FN V beyond_allowed(V residual, V x, V wide) {
  const V size = size_of(residual);
  return select(size <= above(residual_allowed(x), wide), V{}, size);
}

}  // namespace HS_ISA
}  // namespace hs
