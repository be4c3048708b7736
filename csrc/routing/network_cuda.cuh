// Time steps along a river network, and their adjoint, on a GPU, for any scheme of muskingum.h; a thread is one reach.
//
// Time is skewed: at tick k the reaches of level l take the step t = k - level, where 0 <= t < T. Every upstream
// neighbour lies one level before, and has made its discharge at the step's end, Q(t + 1), at tick k - 1, that at its
// begin at tick k - 2. So a tick is one launch over all reaches that have a step then, a range of levels, and a run is
// T + levels - 1 launches. What a tick leaves lies in rings of as many ticks as are read: three of the discharge, two of
// what is published besides (aux) and of the storage. Before the first step they are read from the initial state.
//
// The adjoint goes through the ticks from the last, a segment of `tile` ticks at a time: the segment is run again with
// all its ticks kept, from what the forward run has left in `checkpoints` of the two ticks before it. At tick k a reach
// reads from its one downstream reach the cotangents of the inflow: of step t's end, made at tick k + 1, and of step
// t + 1's begin, made at tick k + 2. Sums over steps run from the last to the first, as in network.h: the same bits.
#pragma once

#include "../core/cuda.cuh"
#include "ticks.h"

namespace hs {
namespace HS_ISA {

template <class Scheme, class T> struct Reach {
  static constexpr int C = Scheme::CONSTANTS, S = Scheme::STORES;

  const Reaches<T>& r;
  const Tick<T>& tick;
  int64_t i, t;
  T c[C], s[S];
  Inflow<T> in;

  __device__ __forceinline__ T upstream(const T* x) const {
    T sum = 0;
    for (int64_t j = r.first[i]; j < r.first[i + 1]; ++j) sum += x[j];
    return sum;
  }
  __device__ __forceinline__ Reach(const Reaches<T>& r, const Tick<T>& tick, int64_t i)
      : r(r), tick(tick), i(i), t(tick.k - r.level[i]) {
    for (int k = 0; k < C; ++k) c[k] = r.constants[k * r.n_reaches + i];
    s[0] = t ? tick.q1[i] : r.initial[i];
    if (S > 1) s[S - 1] = t ? tick.s1[i] : r.initial[r.n_reaches + i];
    in.i0 = upstream(t ? tick.q2 : r.initial), in.i1 = upstream(tick.q1);
    in.mean = Scheme::AUX ? upstream(tick.aux1) : T(0);
    in.ql = r.lateral[t / r.repeat * r.n_reaches + i];
    // Nothing can be taken for a result that comes of an inflow below zero or no number.
    if (!(in.ql >= T(0) && in.ql <= T(MOST_INFLOW))) in.ql = from_bits<T>(as_bits(T(0)) - 1);
  }

  __device__ __forceinline__ void forward() {
    T aux = 0;
    Scheme::step(c, r.dt, in, s, aux);
    tick.q[i] = s[0];
    if (Scheme::AUX) tick.aux[i] = aux;
    if (S > 1) tick.s[i] = s[S - 1];
    if (r.discharge && r.column[i] >= 0) r.discharge[t * r.n_outputs + r.column[i]] = s[0];
    if (r.state && t == r.n_steps - 1)
      for (int k = 0; k < S; ++k) r.state[k * r.n_reaches + i] = s[k];
  }

  __device__ __forceinline__ void adjoint() {
    const int64_t down = r.downstream[i];
    T d_c[C], d_s[S];
    for (int k = 0; k < C; ++k) d_c[k] = r.d_constants[k * r.n_reaches + i];
    for (int k = 0; k < S; ++k) d_s[k] = r.d_state[k * r.n_reaches + i];
    if (r.column[i] >= 0) d_s[0] += r.d_discharge[t * r.n_outputs + r.column[i]];
    if (down >= 0) d_s[0] += tick.d_end1[down] + (t + 1 < r.n_steps ? tick.d_begin2[down] : T(0));
    Inflow<T> d;
    Scheme::step_adj(c, r.dt, in, s, Scheme::AUX && down >= 0 ? tick.d_mean1[down] : T(0), d_s, d, d_c);
    tick.d_end[i] = d.i1, tick.d_begin[i] = d.i0;
    if (Scheme::AUX) tick.d_mean[i] = d.mean;
    if (t == 0 && down >= 0) d_s[0] += tick.d_begin1[down];  // the discharges before the first step are an inflow too
    r.d_lateral[t / r.repeat * r.n_reaches + i] += d.ql;
    for (int k = 0; k < C; ++k) r.d_constants[k * r.n_reaches + i] = d_c[k];
    for (int k = 0; k < S; ++k) r.d_state[k * r.n_reaches + i] = d_s[k];
  }
};

template <class Scheme, class T, bool ADJOINT>
__global__ void tick_kernel(const __grid_constant__ Reaches<T> r, const __grid_constant__ Tick<T> tick) {
  const int64_t i = tick.begin + blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= tick.end) return;
  Reach<Scheme, T> reach(r, tick, i);
  ADJOINT ? reach.adjoint() : reach.forward();
}

}  // namespace HS_ISA
}  // namespace hs
