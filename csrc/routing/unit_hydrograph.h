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

constexpr int CONVOLUTION_PACKS = 4;

// One pack of lanes, of which the last `n` are real: loads and stores past the end go lane by lane.
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
  static constexpr int L = sizeof(V) / sizeof(T), SPAN = L * CONVOLUTION_PACKS;

  // q(t) of the series from `first` on, out of the memory where t < 0.
  static HS_FN V inflow(const Convolution<T>& c, int64_t t, int64_t first) {
    const T* row = t < 0 ? c.memory + (t + c.length - 1) * c.n_series : c.inflow + t * c.n_series;
    return load_some<V>(row + first, c.n_series - first);
  }

  static void forward(const Convolution<T>& c, int64_t block) {
    const int64_t begin = block * SPAN, end = begin + SPAN < c.n_series ? begin + SPAN : c.n_series;
    V w[CONVOLUTION_PACKS][MAX_UNIT_HYDROGRAPH];
    for (int64_t first = begin; first < end; first += L)
      for (int k = 0; k < c.length; ++k)
        w[(first - begin) / L][k] = load_some<V>(c.ordinates + k * c.n_series + first, c.n_series - first);
    for (int64_t t = 0; t < c.n_steps; ++t)
      for (int64_t first = begin; first < end; first += L) {
        V sum = V{};
        for (int k = 0; k < c.length; ++k) sum = fma(w[(first - begin) / L][k], inflow(c, t - k, first), sum);
        store_some(c.outflow + t * c.n_series + first, sum, c.n_series - first);
      }
  }

  static void adjoint(const Convolution<T>& c, int64_t block) {
    const int64_t begin = block * SPAN, end = begin + SPAN < c.n_series ? begin + SPAN : c.n_series;
    V w[CONVOLUTION_PACKS][MAX_UNIT_HYDROGRAPH], d_w[CONVOLUTION_PACKS][MAX_UNIT_HYDROGRAPH];
    for (int64_t first = begin; first < end; first += L)
      for (int k = 0; k < c.length; ++k) {
        w[(first - begin) / L][k] = load_some<V>(c.ordinates + k * c.n_series + first, c.n_series - first);
        d_w[(first - begin) / L][k] = V{};
      }
    for (int64_t t = -(c.length - 1); t < c.n_steps; ++t)
      for (int64_t first = begin; first < end; first += L) {
        const int64_t pack = (first - begin) / L, n = c.n_series - first;
        const V q = inflow(c, t, first);
        V sum = V{};
        for (int k = 0; k < c.length; ++k) {
          if (t + k < 0 || t + k >= c.n_steps) continue;
          const V d_outflow = load_some<V>(c.d_outflow + (t + k) * c.n_series + first, n);
          sum = fma(w[pack][k], d_outflow, sum);
          d_w[pack][k] = fma(q, d_outflow, d_w[pack][k]);
        }
        T* row = t < 0 ? c.d_memory + (t + c.length - 1) * c.n_series : c.d_inflow + t * c.n_series;
        store_some(row + first, sum, n);
      }
    for (int64_t first = begin; first < end; first += L)
      for (int k = 0; k < c.length; ++k)
        store_some(c.d_ordinates + k * c.n_series + first, d_w[(first - begin) / L][k], c.n_series - first);
  }
};

}  // namespace HS_ISA
}  // namespace hs
