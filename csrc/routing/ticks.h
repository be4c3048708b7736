// The ticks of a run along a river network on a GPU, and what each reads and leaves: see network_cuda.cuh.
#pragma once

#include "network.h"

namespace hs {

// Arrays [N] of the ticks that a tick reads and writes; a null pointer: not wanted.
template <class T> struct Tick {
  int64_t k, begin, end;  // the tick, and the reaches that have a step then
  const T *q1, *q2, *aux1, *s1;  // of tick k - 1, and of k - 2
  T *q, *aux, *s;
  // The adjoint's own: the cotangents of inflow at the step's end, at its begin, and of the mean.
  T *d_end, *d_begin, *d_mean;
  const T *d_end1, *d_begin1, *d_begin2, *d_mean1;  // of tick k + 1, and of k + 2
};

constexpr int TICK_THREADS = 128;  // of a block, each with one reach

template <class T> int64_t tick_scratch_rows(const Reaches<T>& r, bool reverse) { return reverse ? 3 * r.tile + 7 : 7; }

// All ticks of a run. `level_start` of r is in the host's memory, `level` on the card: the level of each reach. A Launch
// takes whether the tick is of the adjoint, the number of blocks, and the kernel's two arguments; its Error is 0 where
// all is well.
template <class T, class Launch> struct Ticks {
  using Error = typename Launch::Error;
  // A checkpoint [4, N]: discharge two ticks and one before the segment, and aux and storage one before it. The first
  // one holds the initial state instead.
  static constexpr int ROWS = 4;

  Reaches<T> r;
  Launch launch;

  int64_t n() const { return r.n_reaches; }
  int64_t n_ticks() const { return r.n_steps + r.n_levels - 1; }

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

  Error launch_tick(bool adjoint, const Reaches<T>& r, Tick<T> tick) const {
    const int64_t last = tick.k < r.n_levels ? tick.k : r.n_levels - 1;
    const int64_t first = tick.k - r.n_steps + 1 > 0 ? tick.k - r.n_steps + 1 : 0;
    tick.begin = r.level_start[first], tick.end = r.level_start[last + 1];
    return launch(adjoint, (tick.end - tick.begin + TICK_THREADS - 1) / TICK_THREADS, r, tick);
  }

  Error forward() const {
    for (int64_t k = 0; k < n_ticks(); ++k) {
      Tick<T> tick{};
      tick.k = k, tick.q = q(k), tick.q1 = q(k - 1), tick.q2 = q(k - 2);
      tick.aux = later(k, 0), tick.aux1 = later(k - 1, 0), tick.s = later(k, 1), tick.s1 = later(k - 1, 1);
      if (const Error error = launch_tick(false, r, tick)) return error;
    }
    return Error{};
  }

  Error adjoint() const {
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
        if (const Error error = launch_tick(false, again, tick)) return error;
      }
      for (int64_t k = end - 1; k >= start; --k) {
        Tick<T> tick = tick_at(k);
        tick.d_end = cotangent(k, 0), tick.d_mean = cotangent(k, 1), tick.d_begin = cotangent(k, 2);
        tick.d_end1 = cotangent(k + 1, 0), tick.d_mean1 = cotangent(k + 1, 1);
        tick.d_begin1 = cotangent(k + 1, 2), tick.d_begin2 = cotangent(k + 2, 2);
        if (const Error error = launch_tick(true, r, tick)) return error;
      }
    }
    return Error{};
  }
};

}  // namespace hs
