// Where the lanes of a pack are in a tensor, and loads and stores of them.
#pragma once

#include "model.h"

namespace hs {
namespace HS_ISA {

// Where one unit's lanes are in a tensor: a plain vector load where they are neighbours, one value where they share it.
enum Placement { NEIGHBOURS, SHARED, SCATTERED };

template <class V> struct Lanes {
  static constexpr int L = sizeof(V) / sizeof(typename Lane<V>::scalar);
  Placement placement;
  int64_t offset[L];
  bool used[L];  // lanes past the last column, or past the last component of a ragged group, repeat another and are idle
  bool full;     // all lanes are used

  void classify() {
    bool neighbours = true, shared = true;
    full = true;
    for (int l = 0; l < L; ++l) {
      full &= used[l];
      neighbours &= used[l] && offset[l] == offset[0] + l;
      shared &= offset[l] == offset[0];
    }
    placement = neighbours ? NEIGHBOURS : shared ? SHARED : SCATTERED;
  }
};

template <class V> HS_FN V load(const typename Lane<V>::scalar* base, const Lanes<V>& at) {
  if (at.placement == NEIGHBOURS) return load<V>(base + at.offset[0]);
  if (at.placement == SHARED) return splat<V>(base[at.offset[0]]);
  V v;
  for (int l = 0; l < Lanes<V>::L; ++l) lane(v, l) = base[at.offset[l]];
  return v;
}

template <class V> HS_FN void store(typename Lane<V>::scalar* base, const Lanes<V>& at, V v) {
  if (at.placement == NEIGHBOURS) return store(base + at.offset[0], v);
  for (int l = 0; l < Lanes<V>::L; ++l)
    if (at.used[l]) base[at.offset[l]] = lane(v, l);
}

// A value outside its bounds, in any lane. Comparisons are written so that a NaN is outside.
template <class V> HS_FN typename Lane<V>::bits outside(V x, Bounds<typename Lane<V>::scalar> bounds) {
  return ~((x >= splat<V>(bounds.lower)) & (x <= splat<V>(bounds.upper)));
}

}  // namespace HS_ISA
}  // namespace hs
