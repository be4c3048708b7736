// Routing by the gamma unit hydrograph of each basin: its runoff, convolved with L = 15 ordinates,
//     Q(t) = sum_k w(k) q(t - k),   w(k) = u(k) / sum_j u(j),   u(k) = t(k)^(a' - 1) exp(-t(k) / th),   t(k) = k + 1/2,
// with a' = [a]+ + 0.1 and th = [b]+ + 0.5 (Nash 1957; Feng et al. 2022, doi 10.1029/2022WR032404; the gamma density's
// own factor falls away with the sum). q before the first step comes from a memory of 14 steps, oldest first, so that
// windows chain.
// Adjoint:  d_q(t) = sum_k w(k) d_Q(t + k);  d_w(k) = sum_t d_Q(t) q(t - k);  and from those, with
//     d_ln_u(k) = w(k) (d_w(k) - sum_j w(j) d_w(j)):   d_a' = sum_k d_ln_u(k) ln t(k),   d_th = sum_k d_ln_u(k) t(k) / th^2.
// All arrays are [.., N] with the N series contiguous; a thread takes a few packs of series at a time.
#pragma once

#include "../core/dual.h"

namespace hs {

constexpr int UNIT_HYDROGRAPH_LENGTH = 15;

namespace HS_ISA {

// The ordinates w of one hydrograph, or of a pack of them.
template <class V> HS_FN void ordinates(V a, V b, V* w) {
  using T = typename Lane<V>::scalar;
  const V power = relu(a) + T(0.1 - 1), rate = T(1) / (relu(b) + T(0.5));
  V z[UNIT_HYDROGRAPH_LENGTH], highest = splat<V>(T(-1e30)), sum = V{};
  for (int k = 0; k < UNIT_HYDROGRAPH_LENGTH; ++k) {  // log2 of u(k)
    const V t = splat<V>(k + T(0.5));
    z[k] = power * log2(t) - t * rate * T(1.4426950408889634074);
    highest = above(highest, z[k]);
  }
  for (int k = 0; k < UNIT_HYDROGRAPH_LENGTH; ++k) {
    w[k] = exp2(at_least(z[k] - highest, Format<T>::lowest_exponent));
    sum += w[k];
  }
  for (int k = 0; k < UNIT_HYDROGRAPH_LENGTH; ++k) w[k] = w[k] / sum;
}
}  // namespace HS_ISA
}  // namespace hs
