// The time loop over any model, and its adjoint: lanes of a pack are basins, the components of a basin follow one
// another.
//
// A column is one basin, or one basin's group of components where a basin has more than the kernel sums in one go: the
// first group of every basin, then the second. A pack holds one column a lane. A unit is one component of every column of
// a pack; a block, a few packs with all their units, is what one thread takes at a time: its parameters, stores and
// parameter adjoints stay in the first-level cache from the first step to the last. With basins as lanes the forcing is
// loaded once for all components, and the mean over components is a plain running sum, in the order of the components
// whatever the blocks and threads are.
//
// A step of a model in stages (hybridsolve/compiler/stages.py says why and where it is cut) runs stage by stage, each
// over all units of the block, so that the processor has other units to work at while one waits. A model without stages
// takes a step of one unit after another, and has two packs side by side as one value for that (pair.h).
//
// Nothing here rounds differently with the number of threads, the block that a basin falls in or the checkpoint
// interval: the order of every sum is fixed by C alone (components) or by the steps, last to first (static gradients).
#pragma once

#include <stdlib.h>

#include "lanes.h"

namespace hs {
namespace HS_ISA {

// The same address, of which the compiler does not know what it belongs to. Where a loop walks through two arrays whose
// strides are 1 to 8, g++ 12 makes the address of one from that of the other (-fivopts) and then mistakes what it is in:
// loads from it have been moved across the call that stores there.
template <class T> HS_FN T* apart(T* x) {
  __asm__("" : "+r"(x));
  return x;
}

// The least of places that several threads find.
inline void note_least(int64_t* least, int64_t place) {
  int64_t there = __atomic_load_n(least, __ATOMIC_RELAXED);
  while (place < there && !__atomic_compare_exchange_n(least, &there, place, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
}

// Of a cell beyond the passes of a loop, or of equations without a root, the place, if it is the least, and what is noted
// there: of equations the residual. Only where the least place is there already nothing else is noted beside it.
inline void note_passes_at(int64_t* faults, int64_t place, double noted) {
  note_least(faults + 4, place);
  int64_t bits;
  __builtin_memcpy(&bits, &noted, sizeof bits);
  if (__atomic_load_n(faults + 4, __ATOMIC_RELAXED) == place) __atomic_store_n(faults + 5, bits, __ATOMIC_RELAXED);
}

template <class Model, class V> struct Block {
  using T = typename Lane<V>::scalar;
  using N = Counts<Model>;
  static constexpr int L = Lanes<V>::L, F = Model::F, K = Model::K, P = Model::P, D = Model::D, S = Model::S;
  static constexpr int Q = Model::Q, W = N::W, M = N::M, HEADS = N::HEADS, LINES = Model::LINES;
  static constexpr int WEIGHTS = Model::WEIGHTS;
  static constexpr bool PREPARES = D + W > 0;  // some numbers follow from parameters and inputs
  static constexpr bool LOOPS = Model::LOOPS;
  static constexpr bool STAGED = Model::STAGES > 0;
  static constexpr int MAX_UNITS = 32;
  static constexpr int64_t AHEAD = 8;  // steps

  const Run& run;
  const Limits<Model, T> limits;
  int64_t first_column, n_columns;  // of this block; n_columns in all is n_basins * n_groups
  int n_packs, n_units;             // units: packs x components of a group

  Lanes<V> columns[MAX_UNITS];                        // [pack]: the column itself, for [.., B, G] arrays
  Lanes<V> forcing_lanes[MAX_UNITS][F];               // [pack]
  Lanes<V> series[MAX_UNITS], d_series[MAX_UNITS];    // [unit]: for [.., C, B] arrays, and for cotangents; the
                                                      // cotangent of a sum is that of its pack's first unit
  Lanes<V> cells[MAX_UNITS];                          // [unit]: for [.., B, C] arrays
  int n_moving, moving[P];                            // the per-step parameters
  Lanes<V> moving_lanes[P][MAX_UNITS];                // [.., unit]

  using Kept = typename Model::template Kept<V>;
  struct TapeEntry {  // what the reversal of one step of one unit starts from
    V before[HEADS];
    V put[N::some(LINES)];  // into the delay lines
    Kept kept;
  };

  int pack[MAX_UNITS];                       // [unit]
  V f[MAX_UNITS][F], inputs[MAX_UNITS][N::some(K)];  // [pack]: forcing of the step at hand, inputs
  V p[MAX_UNITS][P], derived[MAX_UNITS][N::some(D)], s[MAX_UNITS][HEADS], weight[MAX_UNITS];
  V d_p[MAX_UNITS][P], d_derived[MAX_UNITS][N::some(D)], d_s[MAX_UNITS][HEADS], d_weight[MAX_UNITS];
  // Of the delay lines: ordinates [unit][W] and contents [unit][M], and their cotangents. They may be many, and thread
  // stacks are small. The contents' cotangents [unit][2 M] move a place with every step that is reversed: those of a line
  // are a window of its 2 (slots - 1) places, which goes down by one, and is copied up when it has come to the first.
  V *ordinate = nullptr, *content = nullptr, *d_ordinate = nullptr, *d_content = nullptr;
  int window[N::some(LINES)];    // its begin
  // Weights of the networks inside the step [pack][WEIGHTS], one copy where all basins share them; and their cotangents
  // [pack][WEIGHTS], sums over components and steps.
  V *network = nullptr, *d_network = nullptr;
  int network_stride = 0;  // between packs
  int in_use[N::some(LINES)];    // slots of each line that are moved
  int with_adjoint[N::some(LINES)];  // slots of each line whose ordinate is not 0, or has a derivative
  typename Lane<V>::bits forcing_fault, parameter_fault;
  mutable V beyond[LOOPS ? MAX_UNITS : 1];  // [unit]: see LOOPS in model.h
  bool passes_fault = false;
  // Of the step at hand, [unit]: first ordinates, what passes from stage to stage, and their cotangents.
  V first[MAX_UNITS][N::some(LINES)], d_first[MAX_UNITS][N::some(LINES)], d_f[MAX_UNITS][F];
  union {
    typename Model::template Between<V> between[MAX_UNITS];
    typename Model::template BetweenAdjoint<V> between_adjoint[MAX_UNITS];
  };

  // Neighbouring packs share pages of the forcing's rows, and a stage wants many units, so a block of few components takes
  // several packs: as many as there is room for, but the same number of blocks for every thread.
  static int packs_per_block(const Run& run) {
    const int64_t packs = (run.n_basins * run.n_groups + L - 1) / L;
    const int64_t most = run.group_size > 8 ? 1 : run.group_size > 2 ? 16 / run.group_size : 8;
    const int64_t in_a_round = most * run.n_threads, rounds = (packs + in_a_round - 1) / in_a_round;
    return int((packs + rounds * run.n_threads - 1) / (rounds * run.n_threads));
  }
  static int64_t count(const Run& run) {
    const int64_t span = packs_per_block(run) * int64_t(L);
    return (run.n_basins * run.n_groups + span - 1) / span;
  }
  static size_t tape_bytes(const Run& run) {
    return sizeof(TapeEntry) * run.interval * packs_per_block(run) * run.group_size;
  }

  explicit Block(const Run& run_) : run(run_), limits(run_) {
    for (int l = 0; l < LINES; ++l) in_use[l] = with_adjoint[l] = Model::SLOTS[l];
  }
  Block(const Block&) = delete;
  ~Block() {
    if constexpr (W > 0) free(ordinate);
    if constexpr (WEIGHTS > 0) free(network);
  }

  // The lanes of unit (pack, g) in a tensor with the given strides over basins and components.
  void place(Lanes<V>& at, int pack, int64_t g, int64_t b_stride, int64_t c_stride) const {
    const int64_t total = run.n_basins * run.n_groups;
    for (int l = 0; l < L; ++l) {
      int64_t column = first_column + pack * L + l;
      at.used[l] = column < total;
      if (column >= total) column = total - 1;
      const int64_t b = column % run.n_basins;
      int64_t c = column / run.n_basins * run.group_size + g;
      at.used[l] &= c < run.n_components;
      if (c >= run.n_components) c = run.n_components - 1;
      at.offset[l] = b * b_stride + c * c_stride;
    }
    at.classify();
  }

  int enter(int64_t block) {
    const int64_t total = run.n_basins * run.n_groups, span = packs_per_block(run) * int64_t(L);
    const int G = int(run.group_size);
    first_column = block * span;
    n_columns = span < total - first_column ? span : total - first_column;
    n_packs = int((n_columns + L - 1) / L);
    n_units = n_packs * G;
    n_moving = 0;
    for (int i = 0; i < P; ++i)
      if (run.per_step[i]) moving[n_moving++] = i;
    if constexpr (W > 0) ordinate = static_cast<V*>(aligned_alloc(alignof(V), (2 * W + 3 * M) * n_units * sizeof(V)));
    if constexpr (W > 0) {
      content = ordinate + W * n_units;
      d_ordinate = content + M * n_units, d_content = d_ordinate + W * n_units;
    }
    typename Lane<V>::bits input_out{}, parameter_out{}, state_out{}, weights_out{};
    for (int k = 0; k < n_packs; ++k) {
      for (int l = 0; l < L; ++l) {
        const int64_t column = first_column + k * L + l;
        columns[k].used[l] = column < total;
        const int64_t one = column < total ? column : total - 1;
        columns[k].offset[l] = one % run.n_basins * run.n_groups + one / run.n_basins;
      }
      columns[k].classify();
      for (int i = 0; i < F; ++i) place(forcing_lanes[k][i], k, 0, run.forcing[i].b_stride, 0);
      for (int i = 0; i < K; ++i) {
        Lanes<V> at;
        place(at, k, 0, run.input[i].b_stride, 0);
        inputs[k][i] = load<V>(as<T>(run.input[i].data), at);
        input_out |= outside(inputs[k][i], limits.input[i]);
      }
      for (int g = 0; g < G; ++g) {
        const int u = k * G + g;
        pack[u] = k;
        place(cells[u], k, g, run.n_components, 1);
        place(series[u], k, g, 1, run.n_basins);
        place(d_series[u], k, g, run.d_fluxes.b_stride, run.d_fluxes.c_stride);
        Lanes<V> at;
        for (int i = 0; i < P; ++i) {
          place(at, k, g, run.parameter[i].b_stride, run.parameter[i].c_stride);
          p[u][i] = as_taken(load<V>(as<T>(run.parameter[i].data), at), i);
          if (!run.per_step[i]) parameter_out |= outside(p[u][i], limits.parameter[i]);
        }
        for (int m = 0; m < n_moving; ++m)
          place(moving_lanes[m][u], k, g, run.parameter[moving[m]].b_stride, run.parameter[moving[m]].c_stride);
        weight[u] = splat<V>(T(1) / T(run.n_components));
        if (run.weights.data) {
          place(at, k, g, run.weights.b_stride, run.weights.c_stride);
          weight[u] = load<V>(as<T>(run.weights.data), at);
          weights_out |= outside(weight[u], {T(-1e30), T(1e30)});
        }
        for (int l = 0; l < L; ++l)
          if (!cells[u].used[l]) lane(weight[u], l) = 0;
        for (int i = 0; i < S; ++i) s[u][i] = load<V>(as<T>(run.initial_state) + i * cells_in_all(), cells[u]);
        for (int i = 0; i < S; ++i) state_out |= outside(s[u][i], limits.state[i]);
        for (int i = 0; i < M; ++i) {
          content[u * M + i] = load<V>(as<T>(run.initial_state) + (S + i) * cells_in_all(), cells[u]);
          state_out |= outside(content[u * M + i], {T(-1e30), T(1e30)});
        }
      }
    }
    weights_out |= read_networks();
    forcing_fault = parameter_fault = typename Lane<V>::bits{};
    for (V& x : beyond) x = V{};
    if (PREPARES && n_moving == 0) prepare();
    return (any(input_out) ? FAULT_FORCING : 0) | (any(parameter_out) ? FAULT_PARAMETER : 0) | (any(state_out) ? FAULT_STATE : 0) |
           (any(weights_out) ? FAULT_WEIGHTS : 0);
  }

  // Makes room for the weights of networks and reads them; whether one is no number.
  typename Lane<V>::bits read_networks() {
    typename Lane<V>::bits out{};
    if constexpr (WEIGHTS > 0) {
      for (int j = 0; j < Model::NETWORKS; ++j)
        if (run.network[j].b_stride) network_stride = WEIGHTS;
      network = static_cast<V*>(aligned_alloc(alignof(V), 2 * n_packs * WEIGHTS * sizeof(V)));
      d_network = network + n_packs * WEIGHTS;
      for (int k = 0; k < (network_stride ? n_packs : 1); ++k)
        each_network<Model>([&](auto of) {
          const View& from = run.network[of.number];
          V* const to = network + k * WEIGHTS + of.first;
          Lanes<V> lanes;
          place(lanes, k, 0, from.b_stride, 0);
          for (int i = 0; i < of.weights; ++i) {
            to[i] = load<V>(as<T>(from.data) + i * from.t_stride, lanes);
            out |= outside(to[i], {T(-1e30), T(1e30)});
          }
        });
    }
    return out;
  }
  int64_t cells_in_all() const { return run.n_basins * run.n_components; }
  T* checkpoint(int64_t t) const { return as<T>(run.checkpoints) + t / run.interval * N::ROWS * cells_in_all(); }

  HS_FN Given<V> given(int u) const {
    return {f[pack[u]], inputs[pack[u]], p[u], derived[u], first[u], limits.dt, LOOPS ? beyond + u : nullptr,
            network + pack[u] * network_stride};
  }
  // What follows from the parameters at hand.
  HS_FN void prepare() {
    for (int u = 0; u < n_units; ++u) {
      if constexpr (D > 0) Model::prepare(given(u), derived[u]);
      if constexpr (W > 0) Model::ordinates(given(u), ordinate + u * W);
    }
  }
  // Passes on the cotangents of what was prepared, for a clean start of the step before.
  HS_FN void adj_prepare() {
    for (int u = 0; u < n_units; ++u) {
      const Cotangents<V> to{nullptr, d_p[u], d_derived[u], nullptr};
      if constexpr (W > 0) Model::ordinates_adj(given(u), d_ordinate + u * W, to);
      if constexpr (D > 0) Model::prepare_adj(given(u), to);
      clear_prepared(u);
    }
  }
  template <class Line> HS_FN V* d_contents(int u, Line line) const {
    return d_content + 2 * (u * M + line.content) + window[line.number];
  }
  // Second part of the delay lines' adjoint (model.h), of a unit; then, of all, the windows'.
  HS_FN void adj_move(int u, const V* d_first) {
    each_line<Model>([&](auto line) {
      if constexpr (line.slots > 1) d_contents(u, line)[-1] = d_s[u][S + line.number];
      d_ordinate[u * W + line.ordinate] += d_first[line.number];
    });
  }
  HS_FN void move_windows() {
    each_line<Model>([&](auto line) {
      if constexpr (line.slots > 1)
        if (--window[line.number] == 0) {
          constexpr int n = line.slots - 1;
          for (int u = 0; u < n_units; ++u) {
            V* const d = d_contents(u, line);
            for (int j = 0; j < n; ++j) d[n + j] = d[j];
          }
          window[line.number] = n;
        }
    });
  }
  HS_FN void clear_prepared(int u) {
    for (int i = 0; i < D; ++i) d_derived[u][i] = V{};
    for (int i = 0; i < W; ++i) d_ordinate[u * W + i] = V{};
  }
  // Slots that hold nothing and are given nothing need not be moved.
  void count_in_use() {
    count_slots<Model>(in_use, [&](int slot, int held) {
      bool empty = true;
      for (int u = 0; u < n_units; ++u) empty &= !any(ordinate[u * W + slot] != V{}) && !any(content[u * M + held] != V{});
      return empty;
    });
  }
  // An ordinate that is 0 may have a derivative. Whether those from a slot on have one is seen by giving them cotangents,
  // no two alike, and looking for what comes of these.
  void count_with_adjoint() {
    each_line<Model>([&](auto line) {
      int& n = with_adjoint[line.number];
      const auto zero = [&](int slot) {
        for (int u = 0; u < n_units; ++u)
          if (any(ordinate[u * W + slot] != V{})) return false;
        return true;
      };
      for (n = line.slots; n > 1 && zero(line.ordinate + n - 1);) --n;
      for (; n < line.slots && !without_derivative(line.ordinate + n, line.ordinate + line.slots); ++n) {}
    });
  }
  bool without_derivative(int slot, int end) {
    bool nothing = true;
    for (int u = 0; u < n_units; ++u) {
      for (int i = slot; i < end; ++i) d_ordinate[u * W + i] = splat<V>(T(1) + T(i) / T(7));
      Model::ordinates_adj(given(u), d_ordinate + u * W,
                           Cotangents<V>{nullptr, d_p[u], d_derived[u], nullptr});
      for (int i = 0; i < P; ++i) nothing &= !any(d_p[u][i] != V{}), d_p[u][i] = V{};
      for (int i = 0; i < D; ++i) nothing &= !any(d_derived[u][i] != V{});
      clear_prepared(u);
    }
    return nothing;
  }
  // One step of all units, their fluxes to q [unit][Q], or [unit] where the outflow is all that is wanted; BEFORE: what
  // each starts from goes to the tape.
  template <bool OUTFLOW_ONLY, bool BEFORE> HS_FN void step(V* q, TapeEntry* taped) {
    for (int u = 0; u < n_units; ++u) {
      heads<Model>(content + u * M, ordinate + u * W, s[u] + S, first[u]);
      for (int i = 0; BEFORE && i < HEADS; ++i) taped[u].before[i] = s[u][i];
    }
    if constexpr (STAGED) step_from<0, OUTFLOW_ONLY>(q, taped);
    else
      for (int u = 0; u < n_units; ++u) {
        V all[Q];
        Model::step(given(u), s[u], all, taped[u].kept);
        if constexpr (OUTFLOW_ONLY) q[u] = all[Model::OUTFLOW];
        else
          for (int i = 0; i < Q; ++i) q[u * Q + i] = all[i];
      }
    for (int u = 0; u < n_units; ++u) move_lines<Model>(content + u * M, ordinate + u * W, s[u] + S, in_use);
  }
  template <int STAGE, bool OUTFLOW_ONLY> HS_FN void step_from(V* q, TapeEntry* taped) {
    stage<STAGE, OUTFLOW_ONLY>(q, taped);
    if constexpr (STAGE + 1 < Model::STAGES) step_from<STAGE + 1, OUTFLOW_ONLY>(q, taped);
  }
  template <int STAGE, bool OUTFLOW_ONLY> HS_APART void stage(V* q, TapeEntry* taped) {
    for (int u = 0; u < n_units; ++u) {
      if constexpr (OUTFLOW_ONLY) {
        OutflowAlone<Model, V> to{q[u], V{}};
        Model::template stage<STAGE>(given(u), s[u], to, taped[u].kept, between[u]);
      } else {
        V* to = q + u * Q;
        Model::template stage<STAGE>(given(u), s[u], to, taped[u].kept, between[u]);
      }
    }
  }
  // Its adjoint, of the cotangents d_q of what the step gives.
  template <bool OUTFLOW_ONLY, bool FORCING> HS_FN void step_adj(const V* d_q, const TapeEntry* taped) {
    if constexpr (STAGED) step_adj_from<0, OUTFLOW_ONLY, FORCING>(d_q, taped);
    else
      for (int u = 0; u < n_units; ++u) {
        V all[Q], rest[F];
        spread<OUTFLOW_ONLY>(d_q, u, all);
        for (int i = 0; i < F; ++i) rest[i] = V{};
        Model::step_adj(given(u), taped[u].before, taped[u].kept, all, d_s[u],
                        Cotangents<V>{FORCING ? d_f[u] : rest, d_p[u], d_derived[u], d_first[u], d_network + pack[u] * WEIGHTS});
      }
  }
  template <bool OUTFLOW_ONLY> static HS_FN void spread(const V* d_q, int u, V* all) {
    for (int i = 0; i < Q; ++i) all[i] = OUTFLOW_ONLY ? i == Model::OUTFLOW ? d_q[u] : V{} : d_q[u * Q + i];
  }
  template <int STAGE, bool OUTFLOW_ONLY, bool FORCING> HS_FN void step_adj_from(const V* d_q, const TapeEntry* taped) {
    stage_adj<STAGE, OUTFLOW_ONLY, FORCING>(d_q, taped);
    if constexpr (STAGE + 1 < Model::ADJOINT_STAGES) step_adj_from<STAGE + 1, OUTFLOW_ONLY, FORCING>(d_q, taped);
  }
  template <int STAGE, bool OUTFLOW_ONLY, bool FORCING> HS_APART void stage_adj(const V* d_q, const TapeEntry* taped) {
    for (int u = 0; u < n_units; ++u) {
      V all[Q], rest[F];
      spread<OUTFLOW_ONLY>(d_q, u, all);
      for (int i = 0; i < F; ++i) rest[i] = V{};
      Model::template stage_adj<STAGE>(given(u), taped[u].before, taped[u].kept, all, d_s[u],
                                       Cotangents<V>{FORCING ? d_f[u] : rest, d_p[u], d_derived[u], d_first[u],
                                                     d_network + pack[u] * WEIGHTS},
                                       between_adjoint[u]);
    }
  }

  // Of the step that a unit has made: notes what cells are beyond the passes of a loop, and where, if that is wanted.
  HS_FN void check_passes(int64_t t, int u) {
    if constexpr (LOOPS)
      if (any(beyond[u] != V{})) note_passes(t, u);
  }
  __attribute__((noinline)) void note_passes(int64_t t, int u) {
    passes_fault = true;
    for (int l = 0; run.faults && l < L; ++l)
      if (cells[u].used[l] && lane(beyond[u], l) != 0)
        note_passes_at(run.faults, t * cells_in_all() + cells[u].offset[l], double(lane(beyond[u], l)));
  }

  // Rows of many basins lie a page or more apart, where the processor does not fetch ahead by itself: `ahead` says which
  // way the loop goes.
  HS_FN void read_forcing(int64_t t, int k, int64_t ahead) {
    for (int i = 0; i < F; ++i) {
      const T* row = as<T>(run.forcing[i].data) + t * run.forcing[i].t_stride;
      f[k][i] = load<V>(row, forcing_lanes[k][i]);
      fetch(row + ahead * run.forcing[i].t_stride, forcing_lanes[k][i]);
    }
  }
  // A row begins anywhere in a cache line, so that the last lane may lie in another line than the first.
  static HS_FN void fetch(const T* row, const Lanes<V>& at) {
    for (unsigned byte = 0; byte < sizeof(V); byte += 64) __builtin_prefetch(row + at.offset[0] + byte / sizeof(T));
    __builtin_prefetch(row + at.offset[L - 1]);
  }
  // Not inlined, nor is put_moving: the loops over steps would lose registers to code that most runs have no use for.
  __attribute__((noinline)) void read_moving(int64_t t) {
    for (int m = 0; m < n_moving; ++m) {
      const View& view = run.parameter[moving[m]];
      V* const to = apart(p[0] + moving[m]);
      for (int u = 0; u < n_units; ++u)
        to[u * P] = as_taken(load<V>(as<T>(view.data) + t * view.t_stride, moving_lanes[m][u]), moving[m]);
    }
    if (PREPARES && n_moving > 0) prepare();
  }

  // A parameter as the step takes it, from the value given; and back, the gradient of the value given.
  HS_FN V as_taken(V given, int i) const {
    return run.raw ? ranged(given, limits.range[i]) : given;
  }
  HS_FN V d_given(int i, int64_t t, const Lanes<V>& at, V d) const {
    if (!run.raw) return d;
    const V given = load<V>(as<T>(run.parameter[i].data) + t * run.parameter[i].t_stride, at);
    return adj_ranged(given, limits.range[i], d);
  }

  // An output of every unit, or its sum over the components of each group.
  template <bool OUTFLOW_ONLY> HS_FN void put(int64_t t, int o, const V* q) const {
    const int index = OUTFLOW_ONLY ? 0 : run.output[o], G = int(run.group_size);
    T* row = as<T>(run.fluxes) + (o * run.n_steps + t) * run.n_basins * (run.each ? run.n_components : run.n_groups);
    const auto value = [&](int u) { return OUTFLOW_ONLY ? q[u] : index < Q ? q[u * Q + index] : s[u][index - Q]; };
    if (run.each) {
      for (int u = 0; u < n_units; ++u) store(row, series[u], value(u));
      return;
    }
    for (int k = 0; k < n_packs; ++k) {
      V sum = V{};
      for (int u = k * G; u < (k + 1) * G; ++u) sum = fma(weight[u], value(u), sum);
      store(row, columns[k], sum);
      T* next = row + run.n_basins * run.n_groups;  // where the next step's goes
      __builtin_prefetch(next + columns[k].offset[0], 1);
      __builtin_prefetch(next + columns[k].offset[L - 1], 1);
    }
  }

  // OUTFLOW_ONLY: what leaves the catchment is the one output, which is what most runs ask for, and the code for all
  // the others falls away.
  template <bool OUTFLOW_ONLY> int forward(int64_t block) {
    int fault = enter(block);
    if (fault) return fault;
    if (LINES > 0 && n_moving == 0) count_in_use();
    TapeEntry scratch[MAX_UNITS];
    for (int64_t t = 0, next_checkpoint = run.interval ? 0 : -1; t < run.n_steps; ++t) {
      if (t == next_checkpoint) {
        for (int u = 0; u < n_units; ++u) {
          for (int i = 0; i < S; ++i) store(checkpoint(t) + i * cells_in_all(), series[u], s[u][i]);
          for (int i = 0; i < M; ++i) store(checkpoint(t) + (S + i) * cells_in_all(), series[u], content[u * M + i]);
        }
        next_checkpoint += run.interval;
      }
      read_moving(t);
      for (int m = 0; m < n_moving; ++m)
        for (int u = 0; u < n_units; ++u)
          parameter_fault |= outside(p[u][moving[m]], limits.parameter[moving[m]]);
      for (int k = 0; k < n_packs; ++k) {
        read_forcing(t, k, AHEAD);
        for (int i = 0; i < F; ++i) forcing_fault |= outside(f[k][i], limits.forcing[i]);
      }
      V q[MAX_UNITS * (OUTFLOW_ONLY ? 1 : Q)];
      step<OUTFLOW_ONLY, false>(q, scratch);
      for (int u = 0; u < n_units; ++u) check_passes(t, u);
      for (int o = 0; o < (OUTFLOW_ONLY ? 1 : run.n_outputs); ++o) put<OUTFLOW_ONLY>(t, o, q);
    }
    for (int u = 0; u < n_units; ++u) {
      for (int i = 0; i < S; ++i) store(as<T>(run.final_state) + i * cells_in_all(), cells[u], s[u][i]);
      for (int i = 0; i < M; ++i) store(as<T>(run.final_state) + (S + i) * cells_in_all(), cells[u], content[u * M + i]);
    }
    return (any(forcing_fault) ? FAULT_FORCING : 0) | (any(parameter_fault) ? FAULT_PARAMETER : 0) |
           (passes_fault ? FAULT_PASSES : 0);
  }

  // The adjoint, segment by segment from the last: the state before every step of a segment is made again from its
  // checkpoint and laid on the tape, then the steps are reversed.
  template <bool OUTFLOW_ONLY, bool FORCING> void adjoint(int64_t block, TapeEntry* tape) {
    enter(block);
    const int G = int(run.group_size);
    for (int i = 0; i < n_packs * WEIGHTS; ++i) d_network[i] = V{};
    for (int u = 0; u < n_units; ++u) {
      d_weight[u] = V{};
      for (int i = 0; i < P; ++i) d_p[u][i] = V{};
      clear_prepared(u);
      for (int i = 0; i < S; ++i) d_s[u][i] = of_used(cells[u], load<V>(as<T>(run.d_final_state) + i * cells_in_all(), cells[u]));
      each_line<Model>([&](auto line) {
        window[line.number] = line.slots - 1;
        for (int j = 0; j + 1 < line.slots; ++j)
          d_contents(u, line)[j] =
              of_used(cells[u], load<V>(as<T>(run.d_final_state) + (S + line.content + j) * cells_in_all(), cells[u]));
      });
    }
    if constexpr (LINES > 0)
      if (n_moving == 0) count_with_adjoint();
    for (int64_t start = (run.n_steps - 1) / run.interval * run.interval; start >= 0; start -= run.interval) {
      const int64_t end = start + run.interval < run.n_steps ? start + run.interval : run.n_steps;
      for (int u = 0; u < n_units; ++u) {
        for (int i = 0; i < S; ++i) s[u][i] = load<V>(checkpoint(start) + i * cells_in_all(), series[u]);
        for (int i = 0; i < M; ++i) content[u * M + i] = load<V>(checkpoint(start) + (S + i) * cells_in_all(), series[u]);
      }
      if (LINES > 0 && n_moving == 0) count_in_use();
      for (int64_t t = start; t < end; ++t) {
        TapeEntry* taped = tape + (t - start) * n_units;
        read_moving(t);
        for (int k = 0; k < n_packs; ++k) read_forcing(t, k, AHEAD);
        V q[MAX_UNITS];
        step<true, true>(q, taped);
        for (int u = 0; u < n_units; ++u)
          for (int l = 0; l < LINES; ++l) taped[u].put[l] = s[u][S + l];
      }
      for (int64_t t = end - 1; t >= start; --t) reverse<OUTFLOW_ONLY, FORCING>(t, tape + (t - start) * n_units);
    }
    if (PREPARES && n_moving == 0) adj_prepare();
    const int64_t n = cells_in_all();
    for (int u = 0; u < n_units; ++u) {
      for (int i = 0; i < P; ++i)
        if (run.d_parameter[i] && !run.per_step[i]) {
          Lanes<V> at;
          place(at, u / G, u % G, run.parameter[i].b_stride, run.parameter[i].c_stride);
          store(as<T>(run.d_parameter[i]), cells[u], d_given(i, 0, at, d_p[u][i]));
        }
      for (int i = 0; i < S; ++i) store(as<T>(run.d_initial_state) + i * n, cells[u], d_s[u][i]);
      each_line<Model>([&](auto line) {
        for (int j = 0; j + 1 < line.slots; ++j)
          store(as<T>(run.d_initial_state) + (S + line.content + j) * n, cells[u], d_contents(u, line)[j]);
      });
      if (run.d_weights) store(as<T>(run.d_weights), cells[u], d_weight[u]);
    }
    each_network<Model>([&](auto of) {
      T* const to = as<T>(run.d_network[of.number]);
      for (int k = 0; to && k < n_packs; ++k)
        for (int l = 0; l < L; ++l)
          for (int i = 0; columns[k].used[l] && i < of.weights; ++i)
            to[columns[k].offset[l] * of.weights + i] = lane(d_network[k * WEIGHTS + of.first + i], l);
    });
  }

  template <bool OUTFLOW_ONLY, bool FORCING>
  HS_FN void reverse(int64_t t, const TapeEntry* taped) {
    const int G = int(run.group_size);
    const int64_t total = run.n_basins * run.n_groups;
    const int n = OUTFLOW_ONLY ? 1 : run.n_outputs;
    read_moving(t);
    V d_q[MAX_UNITS * (OUTFLOW_ONLY ? 1 : Q)];
    const T* d_row = as<T>(run.d_fluxes.data) + t * run.d_fluxes.t_stride;
    for (int k = 0; k < n_packs; ++k) {
      V d_sums[OUTFLOW_ONLY ? 1 : MAX_OUTPUTS];
      read_forcing(t, k, -AHEAD);
      fetch(d_row - AHEAD * run.d_fluxes.t_stride, d_series[k * G]);
      d_sums[0] = V{};
      if (!run.each)
        for (int o = 0; o < n; ++o) d_sums[o] = load<V>(d_row + o * run.d_fluxes_stride, d_series[k * G]);
      for (int u = k * G; u < (k + 1) * G; ++u) {
        for (int l = 0; l < LINES; ++l) d_first[u][l] = V{};
        first_ordinates<Model>(ordinate + u * W, first[u]);
        if constexpr (OUTFLOW_ONLY) {
          d_q[u] = run.each ? of_used(cells[u], load<V>(d_row, d_series[u])) : weight[u] * d_sums[0];
        } else {
          V q[Q + HEADS];
          if (run.d_weights) {
            Kept kept;
            for (int i = 0; i < HEADS; ++i) q[Q + i] = taped[u].before[i];
            Model::step(given(u), q + Q, q, kept);
          }
          for (int i = 0; i < Q; ++i) d_q[u * Q + i] = V{};
          for (int o = 0; o < n; ++o) {
            const int index = run.output[o];
            V d_value;
            if (run.each) {
              d_value = of_used(cells[u], load<V>(d_row + o * run.d_fluxes_stride, d_series[u]));
            } else {
              d_value = weight[u] * d_sums[o];
              if (run.d_weights) d_weight[u] = fma(d_sums[o], q[index], d_weight[u]);
            }
            if (index < Q) d_q[u * Q + index] += d_value;
            else d_s[u][index - Q] += d_value;
          }
        }
        for (int i = 0; FORCING && i < F; ++i) d_f[u][i] = V{};
        adj_put<Model>([&](auto line) { return d_contents(u, line); }, ordinate + u * W, taped[u].put, d_s[u] + S,
                       d_ordinate + u * W, with_adjoint);
      }
    }
    step_adj<OUTFLOW_ONLY, FORCING>(d_q, taped);
    for (int u = 0; u < n_units; ++u) adj_move(u, d_first[u]);
    if constexpr (FORCING)
      for (int k = 0; k < n_packs; ++k)
        for (int i = 0; i < F; ++i) {
          V sum = V{};
          for (int u = k * G; u < (k + 1) * G; ++u) sum += only_used(cells[u], d_f[u][i]);  // an idle lane repeats another
          if (run.d_forcing[i]) store(as<T>(run.d_forcing[i]) + t * total, columns[k], sum);
        }
    move_windows();
    if (PREPARES && n_moving > 0) adj_prepare();
    for (int m = 0; m < n_moving; ++m) put_moving(t, m);
  }

  // A cotangent; of an idle lane none, where what follows from it is summed over components.
  static HS_FN V of_used(const Lanes<V>& at, V d) { return WEIGHTS > 0 ? only_used(at, d) : d; }
  static HS_FN V only_used(const Lanes<V>& at, V v) {
    if (at.full) return v;
    for (int l = 0; l < L; ++l)
      if (!at.used[l]) lane(v, l) = 0;
    return v;
  }

  // A per-step parameter's gradient of step t, then a clean start for the step before it.
  __attribute__((noinline)) void put_moving(int64_t t, int m) {
    const int G = int(run.group_size), i = moving[m];
    T* to = as<T>(run.d_parameter[i]);
    V* const d = apart(d_p[0] + i);  // [u P]
    if (to && !run.by_group[i])
      for (int u = 0; u < n_units; ++u)
        store(to + t * cells_in_all(), cells[u], d_given(i, t, moving_lanes[m][u], d[u * P]));
    else if (to)
      for (int k = 0; k < n_packs; ++k) {
        V sum = V{};
        for (int u = k * G; u < (k + 1) * G; ++u)
          sum += only_used(cells[u], d_given(i, t, moving_lanes[m][u], d[u * P]));
        store(to + t * run.n_basins * run.n_groups, columns[k], sum);
      }
    for (int u = 0; u < n_units; ++u) d[u * P] = V{};
  }
};

}  // namespace HS_ISA
}  // namespace hs
