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
#include "network.h"

namespace hs {
namespace HS_ISA {

// Arrays [N] of the ticks that a tick reads and writes; a null pointer: not wanted.
template <class T> struct Tick {
  int64_t k, begin, end;  // the tick, and the reaches that have a step then
  const T *q1, *q2, *aux1, *s1;  // of tick k - 1, and of k - 2
  T *q, *aux, *s;
  // The adjoint's own: the cotangents of inflow at the step's end, at its begin, and of the mean.
  T *d_end, *d_begin, *d_mean;
  const T *d_end1, *d_begin1, *d_begin2, *d_mean1;  // of tick k + 1, and of k + 2
};

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

// All ticks of a run. `level_start` of r is in the host's memory, `level` on the card: the level of each reach.
template <class Scheme, class T> struct Ticks {
  static constexpr int THREADS = 128;
  // A checkpoint [4, N]: discharge two ticks and one before the segment, and aux and storage one before it. The first
  // one holds the initial state instead.
  static constexpr int ROWS = 4;

  Reaches<T> r;
  cudaStream_t stream;

  int64_t n() const { return r.n_reaches; }
  int64_t n_ticks() const { return r.n_steps + r.n_levels - 1; }
  static int64_t scratch_rows(const Reaches<T>& r, bool reverse) { return reverse ? 3 * r.tile + 7 : 7; }

  T* checkpoint(int64_t segment, int row) const { return r.checkpoints + (segment * ROWS + row) * n(); }
  // Where the forward run leaves a tick: in the rings, or where a segment that begins after it will look for it.
  T* q(int64_t k) const {
    for (int before = 2; before >= 1; --before)
      if (r.checkpoints && (k + before) % r.tile == 0 && k + before < n_ticks())
        return checkpoint((k + before) / r.tile, 2 - before);
    return r.scratch + (k + 3) % 3 * n();
  }
  T* later(int64_t k, int which) const {  // 0: aux, 1: storage
    if (r.checkpoints && (k + 1) % r.tile == 0 && k + 1 < n_ticks()) return checkpoint((k + 1) / r.tile, 2 + which);
    return r.scratch + (3 + 2 * which + (k + 2) % 2) * n();
  }
  // Where the adjoint keeps it, in a segment that begins at `start`.
  T* kept(int64_t k, int64_t start, int which) const {  // 0: discharge, 1: aux, 2: storage
    if (k >= start) return r.scratch + (which * r.tile + k - start) * n();
    return start == 0 ? nullptr : checkpoint(start / r.tile, which ? 1 + which : int(k + 2 - start));
  }
  T* cotangent(int64_t k, int which) const {  // 0: end, 1: mean, 2: begin
    const int64_t slots = which == 2 ? 3 : 2;
    return r.scratch + (3 * r.tile + 2 * which + k % slots) * n();
  }

  template <bool ADJOINT> cudaError_t launch_tick(const Reaches<T>& r, Tick<T> tick) const {
    const int64_t last = tick.k < r.n_levels ? tick.k : r.n_levels - 1;
    const int64_t first = tick.k - r.n_steps + 1 > 0 ? tick.k - r.n_steps + 1 : 0;
    tick.begin = r.level_start[first], tick.end = r.level_start[last + 1];
    const int64_t blocks = (tick.end - tick.begin + THREADS - 1) / THREADS;
    return launch(tick_kernel<Scheme, T, ADJOINT>, blocks, THREADS, 0, stream, r, tick);
  }

  cudaError_t forward() const {
    for (int64_t k = 0; k < n_ticks(); ++k) {
      Tick<T> tick{};
      tick.k = k, tick.q = q(k), tick.q1 = q(k - 1), tick.q2 = q(k - 2);
      tick.aux = later(k, 0), tick.aux1 = later(k - 1, 0), tick.s = later(k, 1), tick.s1 = later(k - 1, 1);
      if (const cudaError_t error = launch_tick<false>(r, tick)) return error;
    }
    return cudaSuccess;
  }

  cudaError_t adjoint() const {
    Reaches<T> again = r;
    again.discharge = again.state = nullptr;
    for (int64_t start = (n_ticks() - 1) / r.tile * r.tile; start >= 0; start -= r.tile) {
      const int64_t end = start + r.tile < n_ticks() ? start + r.tile : n_ticks();
      auto tick_at = [&](int64_t k) {
        Tick<T> tick{};
        tick.k = k, tick.q1 = kept(k - 1, start, 0), tick.q2 = kept(k - 2, start, 0);
        tick.aux1 = kept(k - 1, start, 1), tick.s1 = kept(k - 1, start, 2);
        return tick;
      };
      for (int64_t k = start; k < end - 1; ++k) {
        Tick<T> tick = tick_at(k);
        tick.q = kept(k, start, 0), tick.aux = kept(k, start, 1), tick.s = kept(k, start, 2);
        if (const cudaError_t error = launch_tick<false>(again, tick)) return error;
      }
      for (int64_t k = end - 1; k >= start; --k) {
        Tick<T> tick = tick_at(k);
        tick.d_end = cotangent(k, 0), tick.d_mean = cotangent(k, 1), tick.d_begin = cotangent(k, 2);
        tick.d_end1 = cotangent(k + 1, 0), tick.d_mean1 = cotangent(k + 1, 1);
        tick.d_begin1 = cotangent(k + 1, 2), tick.d_begin2 = cotangent(k + 2, 2);
        if (const cudaError_t error = launch_tick<true>(r, tick)) return error;
      }
    }
    return cudaSuccess;
  }

  static cudaError_t run(const Reaches<T>& r, bool reverse, cudaStream_t stream) {
    const Ticks self{r, stream};
    return reverse ? self.adjoint() : self.forward();
  }
};

}  // namespace HS_ISA
}  // namespace hs
