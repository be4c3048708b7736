// Routing by a unit hydrograph: every series is convolved with its own L ordinates,
//     Q(t) = sum_k w(k) q(t - k),  k = 0 .. L-1,
// where q before the first step comes from a memory of L-1 steps, oldest first, so that windows chain. (The gamma form
// of the ordinates, after Nash 1957 and Feng et al. 2022, is made in Python from a and b.)
// Adjoint:  d_q(t) = sum_k w(k) d_Q(t + k);  d_w(k) = sum_t d_Q(t) q(t - k);  the memory is q at t < 0.
// All arrays are [.., N] with the N series contiguous; a thread takes a few packs of series at a time.
#pragma once

#include "../core/math.h"

namespace hs {

constexpr int MAX_UNIT_HYDROGRAPH = 128;  // ordinates

template <class T> struct Convolution {
  int64_t n_steps, n_series;
  int length;                         // L ordinates
  const T *inflow, *ordinates, *memory;  // [T, N], [L, N], [L-1, N]
  T* outflow;                         // [T, N]
  const T* d_outflow;                 // [T, N]
  T *d_inflow, *d_ordinates, *d_memory;
};

namespace HS_ISA {

// One pack of lanes, of which the last ones may lie past the end of a row: those go lane by lane.
template <class V> HS_FN V load_some(const typename Lane<V>::scalar* from, int64_t n) {
  if (n >= int64_t(sizeof(V) / sizeof(*from))) return load<V>(from);
  V v{};
  for (int l = 0; l < n; ++l) v[l] = from[l];
  return v;
}
template <class V> HS_FN void store_some(typename Lane<V>::scalar* to, V v, int64_t n) {
  if (n >= int64_t(sizeof(V) / sizeof(*to))) return store(to, v);
  for (int l = 0; l < n; ++l) to[l] = v[l];
}

template <class V> struct Convolve {
  using T = typename Lane<V>::scalar;
  static constexpr int L = sizeof(V) / sizeof(T), SPAN = 16 * L;  // series a block takes: a few lines of each row
  static constexpr int STEPS = 8;  // computed together: one ordinate's load serves them all, their sums stay in registers

  const Convolution<T>& c;
  int64_t first, n_lanes;  // of the pack at hand
  V w[MAX_UNIT_HYDROGRAPH], d_w[MAX_UNIT_HYDROGRAPH];

  HS_FN V row(const T* base, int64_t t) const { return load_some<V>(base + t * c.n_series + first, n_lanes); }
  HS_FN V inflow(int64_t t) const { return t < 0 ? row(c.memory, t + c.length - 1) : row(c.inflow, t); }

  // Each output's sum runs over k in order, in whatever number of steps it is computed.
  template <int N> HS_FN void forward_steps(int64_t t) {
    V sum[N];
    for (int i = 0; i < N; ++i) sum[i] = V{};
    for (int k = 0; k < c.length; ++k)
      for (int i = 0; i < N; ++i) sum[i] = fma(w[k], N > 1 ? row(c.inflow, t + i - k) : inflow(t + i - k), sum[i]);
    for (int i = 0; i < N; ++i) store_some(c.outflow + (t + i) * c.n_series + first, sum[i], n_lanes);
  }

  // From the inflows of N steps, all with outflows before the end: their cotangents, and their parts of the ordinates'.
  template <int N> HS_FN void adjoint_steps(int64_t t) {
    V q[N], sum[N];
    for (int i = 0; i < N; ++i) q[i] = N > 1 ? row(c.inflow, t + i) : inflow(t + i), sum[i] = V{};
    for (int k = 0; k < c.length; ++k)
      for (int i = 0; i < N; ++i) {
        if (N == 1 && (t + k < 0 || t + k >= c.n_steps)) continue;
        const V d_outflow = row(c.d_outflow, t + i + k);
        sum[i] = fma(w[k], d_outflow, sum[i]);
        d_w[k] = fma(q[i], d_outflow, d_w[k]);
      }
    for (int i = 0; i < N; ++i) {
      T* to = t + i < 0 ? c.d_memory + (t + i + c.length - 1) * c.n_series : c.d_inflow + (t + i) * c.n_series;
      store_some(to + first, sum[i], n_lanes);
    }
  }

  template <bool ADJOINT> static void run(const Convolution<T>& c, int64_t block) {
    const int64_t end = (block + 1) * SPAN < c.n_series ? (block + 1) * SPAN : c.n_series;
    for (int64_t first = block * SPAN; first < end; first += L) {
      Convolve self{c, first, end - first, {}, {}};
      for (int k = 0; k < c.length; ++k) self.w[k] = self.row(c.ordinates, k);
      if constexpr (ADJOINT) {
        int64_t t = -(c.length - 1);
        for (; t < 0; ++t) self.template adjoint_steps<1>(t);
        for (; t + STEPS + c.length - 1 <= c.n_steps; t += STEPS) self.template adjoint_steps<STEPS>(t);
        for (; t < c.n_steps; ++t) self.template adjoint_steps<1>(t);
        for (int k = 0; k < c.length; ++k) store_some(c.d_ordinates + k * c.n_series + first, self.d_w[k], end - first);
      } else {
        int64_t t = 0;
        for (; t < c.length - 1 && t < c.n_steps; ++t) self.template forward_steps<1>(t);
        for (; t + STEPS <= c.n_steps; t += STEPS) self.template forward_steps<STEPS>(t);
        for (; t < c.n_steps; ++t) self.template forward_steps<1>(t);
      }
    }
  }
  static void forward(const Convolution<T>& c, int64_t block) { run<false>(c, block); }
  static void adjoint(const Convolution<T>& c, int64_t block) { run<true>(c, block); }
};

}  // namespace HS_ISA
}  // namespace hs
