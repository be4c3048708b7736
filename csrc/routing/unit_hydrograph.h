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

template <class T> struct Convolution {
  int64_t n_steps, n_series;
  const T *inflow, *a, *b, *memory;  // [T, N], [N], [N], [14, N]
  T* outflow;                        // [T, N]
  const T* d_outflow;                // [T, N]
  T *d_inflow, *d_a, *d_b, *d_memory;
  // Along a direction, in place of the cotangents: of the four inputs, and of the outflow in their place.
  const T *t_inflow, *t_a, *t_b, *t_memory;
  T* parts;  // a GPU's own: memory for unit_hydrograph_scratch(n_steps, n_series) values, see core/cuda.h
};

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
// Sets the cotangents of a and b.
template <class V> HS_FN void adj_ordinates(V a, V b, const V* w, const V* d_w, V& d_a, V& d_b) {
  using T = typename Lane<V>::scalar;
  const V rate = T(1) / (relu(b) + T(0.5));
  V mean = V{}, d_power = V{}, d_scale = V{};
  for (int k = 0; k < UNIT_HYDROGRAPH_LENGTH; ++k) mean = fma(w[k], d_w[k], mean);
  for (int k = 0; k < UNIT_HYDROGRAPH_LENGTH; ++k) {
    const V d_ln_u = w[k] * (d_w[k] - mean), t = splat<V>(k + T(0.5));
    d_power = fma(d_ln_u, log2(t) * T(0.69314718055994530942), d_power);
    d_scale = fma(d_ln_u, t * rate * rate, d_scale);
  }
  d_a = adj_relu(a, d_power), d_b = adj_relu(b, d_scale);
}

#if !defined(HS_CUDA)

template <class V> struct Convolve {
  using T = typename Lane<V>::scalar;
  static constexpr int L = sizeof(V) / sizeof(T), SPAN = 16 * L;  // series a block takes: a few lines of each row
  static constexpr int LENGTH = UNIT_HYDROGRAPH_LENGTH;
  static constexpr int STEPS = 8;  // computed together: one ordinate's load serves them all, their sums stay in registers

  const Convolution<T>& c;
  int64_t first, n_lanes;  // of the pack at hand
  V a, b, w[LENGTH], d_w[LENGTH];

  HS_FN V row(const T* base, int64_t t) const { return load_some<V>(base + t * c.n_series + first, n_lanes); }
  HS_FN V inflow(int64_t t) const { return t < 0 ? row(c.memory, t + LENGTH - 1) : row(c.inflow, t); }

  // Each output's sum runs over k in order, in whatever number of steps it is computed.
  template <int N> HS_FN void forward_steps(int64_t t) {
    V sum[N];
    for (int i = 0; i < N; ++i) sum[i] = V{};
    for (int k = 0; k < LENGTH; ++k)
      for (int i = 0; i < N; ++i) sum[i] = fma(w[k], N > 1 ? row(c.inflow, t + i - k) : inflow(t + i - k), sum[i]);
    for (int i = 0; i < N; ++i) store_some(c.outflow + (t + i) * c.n_series + first, sum[i], n_lanes);
  }

  // From the inflows of N steps, all with outflows before the end: their cotangents, and their parts of the ordinates'.
  template <int N> HS_FN void adjoint_steps(int64_t t) {
    V q[N], sum[N];
    for (int i = 0; i < N; ++i) q[i] = N > 1 ? row(c.inflow, t + i) : inflow(t + i), sum[i] = V{};
    for (int k = 0; k < LENGTH; ++k)
      for (int i = 0; i < N; ++i) {
        if (N == 1 && (t + k < 0 || t + k >= c.n_steps)) continue;
        const V d_outflow = row(c.d_outflow, t + i + k);
        sum[i] = fma(w[k], d_outflow, sum[i]);
        d_w[k] = fma(q[i], d_outflow, d_w[k]);
      }
    for (int i = 0; i < N; ++i) {
      T* to = t + i < 0 ? c.d_memory + (t + i + LENGTH - 1) * c.n_series : c.d_inflow + (t + i) * c.n_series;
      store_some(to + first, sum[i], n_lanes);
    }
  }

  template <bool ADJOINT> static void run(const Convolution<T>& c, int64_t block) {
    const int64_t end = (block + 1) * SPAN < c.n_series ? (block + 1) * SPAN : c.n_series;
    for (int64_t first = block * SPAN; first < end; first += L) {
      Convolve self{c, first, end - first, {}, {}, {}, {}};
      self.a = load_some<V>(c.a + first, end - first), self.b = load_some<V>(c.b + first, end - first);
      ordinates(self.a, self.b, self.w);
      for (V& d : self.d_w) d = V{};
      if constexpr (ADJOINT) {
        int64_t t = -(LENGTH - 1);
        for (; t < 0; ++t) self.template adjoint_steps<1>(t);
        for (; t + STEPS + LENGTH - 1 <= c.n_steps; t += STEPS) self.template adjoint_steps<STEPS>(t);
        for (; t < c.n_steps; ++t) self.template adjoint_steps<1>(t);
        V d_a, d_b;
        adj_ordinates(self.a, self.b, self.w, self.d_w, d_a, d_b);
        store_some(c.d_a + first, d_a, end - first);
        store_some(c.d_b + first, d_b, end - first);
      } else {
        int64_t t = 0;
        for (; t < LENGTH - 1 && t < c.n_steps; ++t) self.template forward_steps<1>(t);
        for (; t + STEPS <= c.n_steps; t += STEPS) self.template forward_steps<STEPS>(t);
        for (; t < c.n_steps; ++t) self.template forward_steps<1>(t);
      }
    }
  }
  // The derivative along a direction, dQ(t) = sum_k dw(k) q(t - k) + w(k) dq(t - k), into the outflow's place.
  static void tangent(const Convolution<T>& c, int64_t block) {
    const int64_t end = (block + 1) * SPAN < c.n_series ? (block + 1) * SPAN : c.n_series;
    for (int64_t first = block * SPAN; first < end; first += L) {
      Convolve self{c, first, end - first, {}, {}, {}, {}};
      const auto dual = [&](const T* x, const T* d) {
        return Dual<V, 1>{load_some<V>(x + first, end - first), {load_some<V>(d + first, end - first)}};
      };
      Dual<V, 1> w[LENGTH];
      ordinates(dual(c.a, c.t_a), dual(c.b, c.t_b), w);
      for (int64_t t = 0; t < c.n_steps; ++t) {
        V sum = V{};
        for (int k = 0; k < LENGTH; ++k) {
          const V d = t < k ? self.row(c.t_memory, t - k + LENGTH - 1) : self.row(c.t_inflow, t - k);
          sum = fma(w[k].v, d, fma(w[k].d[0], self.inflow(t - k), sum));
        }
        store_some(c.outflow + t * c.n_series + first, sum, end - first);
      }
    }
  }
  static void forward(const Convolution<T>& c, int64_t block) { run<false>(c, block); }
  static void adjoint(const Convolution<T>& c, int64_t block) { run<true>(c, block); }
};

#endif  // !HS_CUDA

}  // namespace HS_ISA
}  // namespace hs
