// Routing by a unit hydrograph whose ordinates w are handed in: runoff, convolved with the L ordinates of its series,
//     Q(t) = sum_k w(k) q(t - k),   k = 0 .. L - 1.
// q before the first step comes from a memory of L - 1 steps, oldest first, so that windows chain.
// Adjoint:  d_q(t) = sum_k w(k) d_Q(t + k);  d_w(k) = sum_t d_Q(t) q(t - k).
// All arrays are [.., N] with the N series contiguous; a thread takes a few packs of series at a time.
#pragma once

#include "../core/math.h"

namespace hs {

template <class T> struct Convolution {
  int64_t n_steps, n_series, length;
  const T *inflow, *ordinates, *memory;  // [T, N], [L, N], [L - 1, N]
  T* outflow;                            // [T, N]
  const T* d_outflow;                    // [T, N]
  T *d_inflow, *d_memory;
  T* d_ordinates;                        // [chunks, L, N]: sums over parts of the steps, one on a CPU
  // Along a direction, in place of the cotangents: of the three inputs, and of the outflow in their place.
  const T *t_inflow, *t_ordinates, *t_memory;
};

// On a GPU a thread takes a chunk of the steps, and the ordinates' cotangents are summed over the chunks afterwards:
// few enough that their sums take a fraction of the memory of the series, and of a length that depends on L alone.
HS_FN int64_t convolution_chunk(int64_t length) { return length < 16 ? 64 : (length + 3) / 4 * 16; }
HS_FN int64_t convolution_chunks(int64_t n_steps, int64_t length) {  // of the adjoint, from the memory's first step on
  return (n_steps + length - 1 + convolution_chunk(length) - 1) / convolution_chunk(length);
}

constexpr int SERIES_THREADS = 64;  // of a block there, each with one series
template <class T> int64_t convolution_blocks(const Convolution<T>& c, bool reverse) {
  const int64_t blocks = (c.n_series + SERIES_THREADS - 1) / SERIES_THREADS, span = convolution_chunk(c.length);
  return blocks * (reverse ? convolution_chunks(c.n_steps, c.length) : (c.n_steps + span - 1) / span);
}

namespace HS_ISA {

#if !defined(HS_CUDA)

template <class V> struct Convolve {
  using T = typename Lane<V>::scalar;
  static constexpr int L = sizeof(V) / sizeof(T), SPAN = 16 * L;  // series a block takes: a few lines of each row
  static constexpr int STEPS = 8;  // computed together: one ordinate's load serves them all, their sums stay in registers

  const Convolution<T>& c;
  int64_t first, n_lanes;  // of the pack at hand

  HS_FN V row(const T* base, int64_t t) const { return load_some<V>(base + t * c.n_series + first, n_lanes); }
  HS_FN V earlier(const T* series, const T* memory, int64_t t) const {
    return t < 0 ? row(memory, t + c.length - 1) : row(series, t);
  }

  // Each output's sum runs over k in order, in whatever number of steps it is computed.
  template <int N> HS_FN void forward_steps(int64_t t) const {
    V sum[N];
    for (int i = 0; i < N; ++i) sum[i] = V{};
    for (int64_t k = 0; k < c.length; ++k) {
      const V w = row(c.ordinates, k);
      for (int i = 0; i < N; ++i)
        sum[i] = fma(w, N > 1 ? row(c.inflow, t + i - k) : earlier(c.inflow, c.memory, t - k), sum[i]);
    }
    for (int i = 0; i < N; ++i) store_some(c.outflow + (t + i) * c.n_series + first, sum[i], n_lanes);
  }

  // What K ordinates from the k-th on add to the cotangents of N steps' inflows, and those to theirs.
  template <int N, int K> HS_FN void adjoint_ordinates(int64_t t, int64_t k, const V* q, V* sum) const {
    V d_outflow[N + K - 1];
    for (int i = 0; i < N + K - 1; ++i) d_outflow[i] = row(c.d_outflow, t + k + i);
    for (int j = 0; j < K; ++j) {
      const V w = row(c.ordinates, k + j);
      T* to = c.d_ordinates + (k + j) * c.n_series + first;
      V d_w = load_some<V>(to, n_lanes);
      for (int i = 0; i < N; ++i) {
        sum[i] = fma(w, d_outflow[i + j], sum[i]);
        d_w = fma(q[i], d_outflow[i + j], d_w);
      }
      store_some(to, d_w, n_lanes);
    }
  }
  // From the inflows of N steps, all with outflows before the end: their cotangents, and their parts of the ordinates'.
  template <int N> HS_FN void adjoint_steps(int64_t t) const {
    V q[N], sum[N];
    for (int i = 0; i < N; ++i) {
      q[i] = N > 1 ? row(c.inflow, t + i) : earlier(c.inflow, c.memory, t);
      sum[i] = V{};
    }
    int64_t k = 0;
    if constexpr (N > 1) {
      for (; k + 15 <= c.length; k += 15) adjoint_ordinates<N, 15>(t, k, q, sum);
      for (; k + 5 <= c.length; k += 5) adjoint_ordinates<N, 5>(t, k, q, sum);
      for (; k < c.length; ++k) adjoint_ordinates<N, 1>(t, k, q, sum);
    } else {
      for (; k < c.length; ++k)
        if (t + k >= 0 && t + k < c.n_steps) adjoint_ordinates<N, 1>(t, k, q, sum);
    }
    for (int i = 0; i < N; ++i) {
      T* to = t + i < 0 ? c.d_memory + (t + i + c.length - 1) * c.n_series : c.d_inflow + (t + i) * c.n_series;
      store_some(to + first, sum[i], n_lanes);
    }
  }

  template <class Work> static void over_packs(const Convolution<T>& c, int64_t block, Work work) {
    const int64_t end = (block + 1) * SPAN < c.n_series ? (block + 1) * SPAN : c.n_series;
    for (int64_t first = block * SPAN; first < end; first += L) work(Convolve{c, first, end - first});
  }
  static void forward(const Convolution<T>& c, int64_t block) {
    over_packs(c, block, [&](const Convolve& pack) {
      int64_t t = 0;
      for (; t < c.length - 1 && t < c.n_steps; ++t) pack.template forward_steps<1>(t);
      for (; t + STEPS <= c.n_steps; t += STEPS) pack.template forward_steps<STEPS>(t);
      for (; t < c.n_steps; ++t) pack.template forward_steps<1>(t);
    });
  }
  static void adjoint(const Convolution<T>& c, int64_t block) {
    over_packs(c, block, [&](const Convolve& pack) {
      for (int64_t k = 0; k < c.length; ++k)
        store_some(c.d_ordinates + k * c.n_series + pack.first, V{}, pack.n_lanes);
      int64_t t = 1 - c.length;
      for (; t < 0; ++t) pack.template adjoint_steps<1>(t);
      for (; t + STEPS + c.length - 1 <= c.n_steps; t += STEPS) pack.template adjoint_steps<STEPS>(t);
      for (; t < c.n_steps; ++t) pack.template adjoint_steps<1>(t);
    });
  }
  // The derivative along a direction, dQ(t) = sum_k dw(k) q(t - k) + w(k) dq(t - k), into the outflow's place.
  static void tangent(const Convolution<T>& c, int64_t block) {
    over_packs(c, block, [&](const Convolve& pack) {
      for (int64_t t = 0; t < c.n_steps; ++t) {
        V sum = V{};
        for (int64_t k = 0; k < c.length; ++k) {
          sum = fma(pack.row(c.t_ordinates, k), pack.earlier(c.inflow, c.memory, t - k), sum);
          sum = fma(pack.row(c.ordinates, k), pack.earlier(c.t_inflow, c.t_memory, t - k), sum);
        }
        store_some(c.outflow + t * c.n_series + pack.first, sum, pack.n_lanes);
      }
    });
  }
};

#endif  // !HS_CUDA

}  // namespace HS_ISA
}  // namespace hs
