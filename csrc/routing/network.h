// Time steps along a river network, and their adjoint, for any scheme of muskingum.h.
//
// Reaches lie in the order of RiverNetwork: level by level, every upstream neighbour exactly one level before, those of
// reach i being first[i] .. first[i+1]. What a reach does in a step needs of its upstream neighbours that step alone. So
// a thread takes a tile of steps, and within it all levels in turn: a pack of reaches of one level runs through all
// steps of the tile, reading the series that the level before has left, and leaving its own for the level after. Those
// two levels' series stay in the cache; nothing of the size [T, N] is made but what was asked for. A tile may follow
// the one before it as soon as that one has passed a level, so threads follow one another down the river.
//
// The adjoint takes the tiles from the last, runs each again from its checkpoint with all series kept, and goes through
// the levels from the outlets up. A reach's inflow is one sum, whose cotangent all its upstream neighbours share: they
// read it from their one downstream reach. Sums over steps run from the last to the first whatever the tiles are, so the
// bits depend neither on them nor on the threads.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <sched.h>
#include <stddef.h>
#endif

#include "muskingum.h"

namespace hs {

constexpr double MOST_INFLOW = 1e9;  // m3/s into a reach: a thousand times what all rivers carry is no inflow

template <class T> struct Reaches {
  int64_t n_steps, n_reaches, n_levels, n_outputs;
  int64_t repeat;             // steps that share a row of the lateral inflow
  int64_t tile;               // steps between checkpoints
  T dt;                       // s
  const int64_t* level_start;  // [levels + 1]
  const int32_t *first, *downstream, *column;  // [N + 1], [N], [N]: the column of the output, or -1
  const T *constants, *lateral;  // [CONSTANTS, N], [T / repeat, N]
  T* state;                   // [STORES, N], of the begin, which the run makes that of the end
  T* discharge;               // [T, n_outputs], at the end of every step
  T* checkpoints;             // [tiles, STORES, N], or null: the state before each tile
  // Of a network that is a part of another (forward, on a CPU): reaches whose steps another part has taken.
  const int32_t* given;       // [N]: the column of what is given, or -1; null where nothing is
  const T* given_series;      // [T, 2, n_given]: discharge at the end of every step, and what a scheme publishes besides
  int64_t n_given;
  T* published;               // [T, n_outputs] of the latter at the outputs, or null
  // The adjoint's own.
  const T* d_discharge;       // [T, n_outputs]
  T *d_state, *d_constants, *d_lateral;  // d_state comes as the final state's; the others are zero and added to
  T* d_inflow;                // [N], zero: hands on what a tile adds to the inflow at the end of the one before it
  // A GPU's own, see network_cuda.cuh.
  const int32_t* level;       // [N]
  const T* initial;           // [STORES, N]
  T* scratch;
};

#if !defined(HS_CUDA)  // a GPU's way through the network stands in network_cuda.cuh
namespace HS_ISA {

template <class Scheme, class V> struct Router {
  using T = typename Lane<V>::scalar;
  using Index = typename Lane<V>::bits;
  static constexpr int L = sizeof(V) / sizeof(T), C = Scheme::CONSTANTS, S = Scheme::STORES;
  static constexpr int SERIES = 1 + Scheme::AUX;  // that a reach publishes: its discharge, and what its scheme adds
  static constexpr int KEPT = SERIES + S - 1;     // and those that its own reversal needs besides
  static constexpr int MOST_UPSTREAM = 16;        // gathered as packs; what is beyond goes lane by lane

  const Reaches<T>& r;
  int64_t t0, n;       // the tile's first step, and its steps
  int64_t row;         // numbers that one pack of reaches takes in a series: (tile + 1) L
  T* memory;

  static int64_t packs(int64_t reaches) { return (reaches + L - 1) / L; }
  static int64_t row_of(const Reaches<T>& r) { return (r.tile + 1) * L; }
  static int64_t widest(const Reaches<T>& r) {
    int64_t most = 0;
    for (int64_t l = 0; l < r.n_levels; ++l) {
      const int64_t n = packs(r.level_start[l + 1] - r.level_start[l]);
      most = n > most ? n : most;
    }
    return most;
  }
  static int64_t all_packs(const Reaches<T>& r) {
    int64_t n = 0;
    for (int64_t l = 0; l < r.n_levels; ++l) n += packs(r.level_start[l + 1] - r.level_start[l]);
    return n;
  }
  // Numbers a thread needs: a row of zeros, where lanes without a neighbour read, then two levels of what is published;
  // in the adjoint all levels of what is kept, and two levels of cotangents of what was published.
  static size_t workspace(const Reaches<T>& r, bool adjoint) {
    const int64_t published = 2 * widest(r) * SERIES, kept = all_packs(r) * KEPT;
    return sizeof(T) * row_of(r) * (1 + (adjoint ? kept + published : published));
  }

  // Where a level's series lie: those of pack g from at + g row on, and the further series `apart` behind one another.
  struct Level {
    T* at;
    int64_t apart, start, end;
    HS_FN T* series(int64_t g, int64_t row, int k = 0) const { return at + k * apart + g * row; }
  };

  // The sum of a series over what lies upstream of each lane, at one time.
  struct Upstream {
    Index index[MOST_UPSTREAM];
    int most = 0;
    const int32_t* first = nullptr;  // for reaches of more neighbours than that
    int64_t start = 0, row = 0;
    int n_lanes = 0;

    HS_FN V sum(const T* level, int64_t t) const {
      V total = V{};
      for (int u = 0; u < (most < MOST_UPSTREAM ? most : MOST_UPSTREAM); ++u) total += gather(level + t * L, index[u]);
      if (most > MOST_UPSTREAM)
        for (int l = 0; l < n_lanes; ++l)
          for (int64_t j = first[l] + MOST_UPSTREAM; j < first[l + 1]; ++j)
            lane(total, l) += level[place(j - start, row) + t * L];
      return total;
    }
  };
  static HS_FN int64_t place(int64_t j, int64_t row) { return j / L * row + j % L; }

  static HS_FN V& part(V& w, int) { return w; }
  static HS_FN V& part(Pair<V>& w, int p) { return p ? w.b : w.a; }

  // The reaches of one pack: i and those after it, and where their discharge goes.
  struct Side {
    int64_t i = 0;
    int n_lanes = 0;
    const int32_t* column = nullptr;
    bool output = false, together = false;  // any reach has an output; all have, one beside the other
    const int32_t* given = nullptr;
    bool is_given = false;  // any reach is

    Side() = default;
    Side(const Router& router, int64_t i_, int64_t end)
        : i(i_), n_lanes(int(end - i_ < L ? end - i_ : L)), column(router.r.column + i_), together(n_lanes == L) {
      for (int l = 0; l < n_lanes; ++l)
        output |= column[l] >= 0, together &= column[l] >= 0 && column[l] == column[0] + l;
      if (!router.r.given) return;
      given = router.r.given + i;
      for (int l = 0; l < n_lanes; ++l) is_given |= given[l] >= 0;
    }
    HS_FN void receive(V& discharge, V& aux, const Reaches<T>& r, int64_t t) const {
      for (int l = 0; l < n_lanes; ++l)
        if (given[l] >= 0) {
          const T* at = r.given_series + 2 * t * r.n_given + given[l];
          lane(discharge, l) = at[0], lane(aux, l) = at[r.n_given];
        }
    }
    HS_FN void put(T* out, V discharge) const {
      if (together) {
        store(out + column[0], discharge);
        __builtin_prefetch(out + column[0] + 2 * L, 1);
      } else if (output) {
        for (int l = 0; l < n_lanes; ++l)
          if (column[l] >= 0) out[column[l]] = lane(discharge, l);
      }
    }
    HS_FN void take(V& d, const T* d_out) const {
      if (together) {
        d += load<V>(d_out + column[0]);
      } else if (output) {
        for (int l = 0; l < n_lanes; ++l)
          if (column[l] >= 0) lane(d, l) += d_out[column[l]];
      }
    }
  };

  // `zero` is the place of the row of zeros, relative to the level's series.
  Upstream upstream(const Level& up, int64_t zero, const Side& side) const {
    Upstream u;
    u.first = r.first + side.i, u.start = up.start, u.row = row, u.n_lanes = side.n_lanes;
    for (int l = 0; l < side.n_lanes; ++l) {
      const int count = u.first[l + 1] - u.first[l];
      u.most = count > u.most ? count : u.most;
    }
    for (int k = 0; k < u.most && k < MOST_UPSTREAM; ++k)
      for (int l = 0; l < L; ++l) {
        const bool there = l < side.n_lanes && k < u.first[l + 1] - u.first[l];
        u.index[k][l] = there ? place(u.first[l] + k - up.start, row) : zero;
      }
    return u;
  }

  template <class W> void load_constants(W* c, int p, const Side& side) const {
    for (int k = 0; k < C; ++k) {
      V x = load_some<V>(r.constants + k * r.n_reaches + side.i, side.n_lanes);
      for (int l = side.n_lanes; l < L; ++l) x[l] = x[0];  // so that idle lanes divide by nothing that is zero
      part(c[k], p) = x;
    }
  }

  // All steps of the tile for one level. With KEEP all that the reversal needs is left in `here`, and nothing elsewhere.
  template <bool KEEP> bool run_level(const Level& up, const Level& here, const T* state) const {
    bool fault = false;
    int64_t i = here.start, g = 0;
    if constexpr (Scheme::PAIRED)
      for (; here.end - i > L; i += 2 * L, g += 2) fault |= run_packs<KEEP, Pair<V>>(up, here, state, i, g);
    for (; i < here.end; i += L, ++g) fault |= run_packs<KEEP, V>(up, here, state, i, g);
    return fault;
  }
  // A pack of the level from reach i on or, as their steps are chains of dependent operations, two beside one another.
  template <bool KEEP, class W>
  bool run_packs(const Level& up, const Level& here, const T* state, int64_t i, int64_t g) const {
    constexpr int U = sizeof(W) / sizeof(V);
    Side side[U];
    Upstream u[U], u_aux[U];
    T* series[U][KEPT];
    W c[C], s[S];
    Inflow<W> in;
    in.mean = W{};
    for (int p = 0; p < U; ++p) {
      side[p] = Side(*this, i + p * L, here.end);
      load_constants<W>(c, p, side[p]);
      for (int k = 0; k < S; ++k) part(s[k], p) = load_some<V>(state + k * r.n_reaches + side[p].i, side[p].n_lanes);
      u[p] = upstream(up, memory - up.at, side[p]);
      if (Scheme::AUX) u_aux[p] = upstream(up, memory - up.series(0, row, 1), side[p]);
      for (int k = 0; k < KEPT; ++k) series[p][k] = here.series(g + p, row, k);
      store(series[p][0], part(s[0], p));
      if (KEEP && S > 1) store(series[p][KEPT - 1], part(s[S - 1], p));
      part(in.i0, p) = u[p].sum(up.at, 0);
    }
    auto good = splat<W>(0) <= splat<W>(0);
    int64_t left = r.repeat - t0 % r.repeat;
    const T* lateral = r.lateral + t0 / r.repeat * r.n_reaches + i;
    T* out = r.discharge + t0 * r.n_outputs;
    for (int64_t t = 0; t < n; ++t, out += r.n_outputs) {
      for (int p = 0; p < U; ++p) {
        part(in.ql, p) = load_some<V>(lateral + p * L, side[p].n_lanes);
        part(in.i1, p) = u[p].sum(up.at, t + 1);
        if (Scheme::AUX) part(in.mean, p) = u_aux[p].sum(up.series(0, row, 1), t + 1);
      }
      // Rows lie far apart, where no processor looks ahead by itself: two packs on is soon wanted.
      for (int p = 0; p < U; ++p) __builtin_prefetch(lateral + (U + 1 + p) * L);
      if (--left == 0) left = r.repeat, lateral += r.n_reaches;
      good = good & (in.ql >= W{}) & (in.ql <= splat<W>(T(MOST_INFLOW)));
      W aux;
      Scheme::step(c, r.dt, in, s, aux);
      for (int p = 0; p < U; ++p) {
        if (side[p].is_given) side[p].receive(part(s[0], p), part(aux, p), r, t0 + t);
        store(series[p][0] + (t + 1) * L, part(s[0], p));
        if (Scheme::AUX) store(series[p][1] + (t + 1) * L, part(aux, p));
        if (KEEP && S > 1) store(series[p][KEPT - 1] + (t + 1) * L, part(s[S - 1], p));
        if (!KEEP) side[p].put(out, part(s[0], p));
        if (!KEEP && Scheme::AUX && r.published) side[p].put(r.published + (t0 + t) * r.n_outputs, part(aux, p));
      }
      in.i0 = in.i1;
    }
    for (int p = 0; !KEEP && p < U; ++p)
      for (int k = 0; k < S; ++k) store_some(r.state + k * r.n_reaches + side[p].i, part(s[k], p), side[p].n_lanes);
    return any(~good);
  }

  Router(const Reaches<T>& r, int64_t number, void* workspace)
      : r(r), t0(number * r.tile), n(r.n_steps - t0 < r.tile ? r.n_steps - t0 : r.tile), row(row_of(r)),
        memory(static_cast<T*>(workspace)) {}

  Level level(int64_t l, T* at, int64_t apart) const {
    return l < 0 || l >= r.n_levels ? Level{memory, 0, 0, 0} : Level{at, apart, r.level_start[l], r.level_start[l + 1]};
  }

  // passed[k] counts the levels that tile k has done, for the thread of the tile that follows it.
  static void wait(const int64_t* passed, int64_t levels) {
    for (int spins = 0; __atomic_load_n(passed, __ATOMIC_ACQUIRE) < levels; ++spins)
      if (spins > 1000) sched_yield();
  }

  static bool forward(const Reaches<T>& r, int64_t number, int64_t* passed, void* workspace) {
    const Router self(r, number, workspace);
    return self.forward_tile(number, passed);
  }
  bool forward_tile(int64_t number, int64_t* passed) const {
    const int64_t most = widest(r) * row;
    T* buffer = memory + row;
    for (int64_t k = 0; k < row; ++k) memory[k] = 0;
    bool fault = false;
    for (int64_t l = 0; l < r.n_levels; ++l) {
      if (number) wait(passed + number - 1, l + 1);
      const Level up = level(l - 1, buffer + (l + 1) % 2 * most * SERIES, most);
      // What is kept but not published has no reader here.
      const Level here = level(l, buffer + l % 2 * most * SERIES, most);
      if (r.checkpoints)
        for (int k = 0; k < S; ++k)
          for (int64_t i = here.start; i < here.end; ++i)
            r.checkpoints[(number * S + k) * r.n_reaches + i] = r.state[k * r.n_reaches + i];
      fault |= run_level<false>(up, here, r.state);
      __atomic_store_n(passed + number, l + 1, __ATOMIC_RELEASE);
    }
    return fault;
  }

  static void adjoint(const Reaches<T>& r, int64_t number, int64_t* passed, void* workspace) {
    const Router self(r, number, workspace);
    self.adjoint_tile(number, passed);
  }
  void adjoint_tile(int64_t number, int64_t* passed) const {
    const int64_t most = widest(r) * row, all = all_packs(r) * row;
    for (int64_t k = 0; k < row; ++k) memory[k] = 0;
    T *kept = memory + row, *d_published = kept + all * KEPT;
    int64_t at = 0;
    Level up = level(-1, nullptr, 0), here = up;
    for (int64_t l = 0; l < r.n_levels; ++l, up = here) {
      here = level(l, kept + at * row, all);
      run_level<true>(up, here, r.checkpoints + number * S * r.n_reaches);
      at += packs(here.end - here.start);
    }
    for (int64_t l = r.n_levels - 1; l >= 0; --l) {
      if (t0 + n < r.n_steps) wait(passed + number + 1, r.n_levels - l);
      at -= packs(r.level_start[l + 1] - r.level_start[l]);
      here = level(l, kept + at * row, all);
      const int64_t before = l ? packs(r.level_start[l] - r.level_start[l - 1]) : 0;
      up = level(l - 1, kept + (at - before) * row, all);
      const Level d_down = level(l + 1, d_published + (l + 1) % 2 * most * SERIES, most);
      const Level d_here = level(l, d_published + l % 2 * most * SERIES, most);
      reverse_level(up, here, d_down, d_here);
      __atomic_store_n(passed + number, r.n_levels - l, __ATOMIC_RELEASE);
    }
  }

  void reverse_level(const Level& up, const Level& here, const Level& d_down, const Level& d_here) const {
    int64_t i = here.start, g = 0;
    if constexpr (Scheme::PAIRED)
      for (; here.end - i > L; i += 2 * L, g += 2) reverse_packs<Pair<V>>(up, here, d_down, d_here, i, g);
    for (; i < here.end; i += L, ++g) reverse_packs<V>(up, here, d_down, d_here, i, g);
  }
  template <class W>
  void reverse_packs(const Level& up, const Level& here, const Level& d_down, const Level& d_here, int64_t i,
                     int64_t g) const {
    constexpr int U = sizeof(W) / sizeof(V);
    Side side[U];
    Upstream u[U], u_aux[U];
    Index down[U], down_aux[U];
    W c[C], d_c[C], d_s[S], i1;
    W d_i0;  // of the inflow at the end of the step, from the step after it
    for (int p = 0; p < U; ++p) {
      const Side& at = side[p] = Side(*this, i + p * L, here.end);
      load_constants<W>(c, p, at);
      for (int k = 0; k < C; ++k) part(d_c[k], p) = load_some<V>(r.d_constants + k * r.n_reaches + at.i, at.n_lanes);
      for (int k = 0; k < S; ++k) part(d_s[k], p) = load_some<V>(r.d_state + k * r.n_reaches + at.i, at.n_lanes);
      part(d_i0, p) = load_some<V>(r.d_inflow + at.i, at.n_lanes);
      u[p] = upstream(up, memory - up.at, at);
      if (Scheme::AUX) u_aux[p] = upstream(up, memory - up.series(0, row, 1), at);
      for (int l = 0; l < L; ++l) {
        const int64_t j = l < at.n_lanes ? r.downstream[at.i + l] : -1;
        down[p][l] = j < 0 ? memory - d_down.at : place(j - d_down.start, row);
        down_aux[p][l] = j < 0 ? memory - d_down.series(0, row, 1) : place(j - d_down.start, row);
      }
      part(i1, p) = u[p].sum(up.at, n);
    }
    for (int64_t t = n - 1; t >= 0; --t) {
      Inflow<W> in, d;
      in.i1 = i1, in.mean = W{};
      W s[S], d_aux = W{};
      const int64_t lateral = (t0 + t) / r.repeat * r.n_reaches + i;
      for (int p = 0; p < U; ++p) {
        part(i1, p) = u[p].sum(up.at, t);
        if (Scheme::AUX) part(in.mean, p) = u_aux[p].sum(up.series(0, row, 1), t + 1);
        part(in.ql, p) = load_some<V>(r.lateral + lateral + p * L, side[p].n_lanes);
        side[p].take(part(d_s[0], p), r.d_discharge + (t0 + t) * r.n_outputs);
        part(d_s[0], p) += gather(d_down.at + (t + 1) * L, down[p]);
        if (Scheme::AUX) part(d_aux, p) = gather(d_down.series(0, row, 1) + (t + 1) * L, down_aux[p]);
        part(s[0], p) = load<V>(here.series(g + p, row) + t * L);
        if (S > 1) part(s[S - 1], p) = load<V>(here.series(g + p, row, KEPT - 1) + t * L);
      }
      in.i0 = i1;
      Scheme::step_adj(c, r.dt, in, s, d_aux, d_s, d, d_c);
      W d_i1 = d.i1 + d_i0;
      d_i0 = d.i0;
      for (int p = 0; p < U; ++p) {
        store(d_here.series(g + p, row) + (t + 1) * L, part(d_i1, p));
        if (Scheme::AUX) store(d_here.series(g + p, row, SERIES - 1) + (t + 1) * L, part(d.mean, p));
        T* d_lateral = r.d_lateral + lateral + p * L;
        store_some(d_lateral, load_some<V>(d_lateral, side[p].n_lanes) + part(d.ql, p), side[p].n_lanes);
      }
    }
    for (int p = 0; p < U; ++p) {
      const Side& at = side[p];
      store_some(r.d_inflow + at.i, part(d_i0, p), at.n_lanes);
      if (t0 == 0) {  // the discharges before the first step are an inflow too
        store(d_here.series(g + p, row), part(d_i0, p));
        part(d_s[0], p) += gather(d_down.at, down[p]);
      }
      for (int k = 0; k < C; ++k) store_some(r.d_constants + k * r.n_reaches + at.i, part(d_c[k], p), at.n_lanes);
      for (int k = 0; k < S; ++k) store_some(r.d_state + k * r.n_reaches + at.i, part(d_s[k], p), at.n_lanes);
    }
  }
};

}  // namespace HS_ISA
#endif

}  // namespace hs
