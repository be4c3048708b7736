// One derivative of a run along a direction given for any of its inputs: the model's step on dual numbers of one
// direction, over the same blocks and in the same stages as the run itself (drive.h). What the adjoint is the transpose of.
#pragma once

#include "drive.h"
#include "dual.h"

namespace hs {
namespace HS_ISA {

template <class Model, class V> struct Forward {
  using T = typename Lane<V>::scalar;
  using B = Block<Model, V>;
  using DV = Dual<V, 1>;
  using N = Counts<Model>;
  static constexpr int F = Model::F, K = Model::K, P = Model::P, D = Model::D, S = Model::S, Q = Model::Q;
  static constexpr int W = N::W, M = N::M, HEADS = N::HEADS, LINES = Model::LINES, MOST = B::MAX_UNITS;

  const Tangent& in;
  B block;
  Lanes<V> forcing_lanes[MOST][F], moving_lanes[P][MOST];
  DV inputs[MOST][N::some(K)], p[MOST][P], derived[MOST][N::some(D)], s[MOST][HEADS], weight[MOST];
  // Of the step at hand: forcing [pack], and first ordinates, what a step keeps and what passes from stage to stage [unit].
  DV f[MOST][F], first[MOST][N::some(LINES)], q[MOST][Q + S];
  typename Model::template Kept<DV> kept[MOST];
  typename Model::template Between<DV> between[MOST];
  DV *ordinate = nullptr, *content = nullptr;  // [unit][W], [unit][M]
  DV* network = nullptr;                       // [pack][WEIGHTS]

  explicit Forward(const Tangent& in_) : in(in_), block(in_) {}
  Forward(const Forward&) = delete;
  ~Forward() {
    if constexpr (W > 0) free(ordinate);
    if constexpr (B::WEIGHTS > 0) free(network);
  }
  static int64_t count(const Tangent& in) { return B::count(in); }
  static int solve(const Tangent& in, int64_t index) { return Forward(in).run(index); }

  static HS_FN DV dual(V v, V d) { return {v, {d}}; }

  int run(int64_t index) {
    const Run& run = in;
    if (const int fault = block.enter(index)) return fault;
    const int G = int(run.group_size);
    const int64_t all = block.cells_in_all();
    if constexpr (W > 0) {
      ordinate = static_cast<DV*>(aligned_alloc(alignof(V), (W + M) * block.n_units * sizeof(DV)));
      content = ordinate + W * block.n_units;
    }
    for (int k = 0; k < block.n_packs; ++k)
      for (int i = 0; i < K; ++i) inputs[k][i] = dual(block.inputs[k][i], V{});
    for (int u = 0; u < block.n_units; ++u) {
      Lanes<V> at;
      for (int i = 0; i < P; ++i) {
        const View& t = in.t_parameter[i];
        block.place(at, u / G, u % G, t.b_stride, t.c_stride);
        p[u][i] = dual(block.p[u][i], t.data ? moves(i, 0, u, load<V>(as<T>(t.data), at)) : V{});
      }
      for (int m = 0; m < block.n_moving; ++m) {
        const View& t = in.t_parameter[block.moving[m]];
        block.place(moving_lanes[m][u], u / G, u % G, t.b_stride, t.c_stride);
      }
      const auto along = [&](int row) {
        return in.t_initial_state ? load<V>(as<T>(in.t_initial_state) + row * all, block.cells[u]) : V{};
      };
      for (int i = 0; i < S; ++i) s[u][i] = dual(block.s[u][i], along(i));
      for (int i = 0; i < M; ++i) content[u * M + i] = dual(block.content[u * M + i], along(S + i));
      block.place(at, u / G, u % G, in.t_weights.b_stride, in.t_weights.c_stride);
      weight[u] = dual(block.weight[u], in.t_weights.data ? B::only_used(block.cells[u], load<V>(as<T>(in.t_weights.data), at)) : V{});
    }
    for (int k = 0; k < block.n_packs; ++k)
      for (int i = 0; i < F; ++i) block.place(forcing_lanes[k][i], k, 0, in.t_forcing[i].b_stride, 0);
    if constexpr (B::WEIGHTS > 0) move_networks();
    if (block.n_moving == 0) {
      prepare();
      count_in_use();
    }
    typename Lane<V>::bits bad{};
    for (int64_t t = 0; t < run.n_steps; ++t) bad |= advance(t);
    for (int u = 0; u < block.n_units; ++u) {
      for (int i = 0; i < S; ++i) store(as<T>(in.t_final_state) + i * all, block.cells[u], s[u][i].d[0]);
      for (int i = 0; i < M; ++i)
        store(as<T>(in.t_final_state) + (S + i) * all, block.cells[u], content[u * M + i].d[0]);
    }
    return any(bad) ? FAULT_FORCING | FAULT_PARAMETER : 0;
  }

  // How a parameter as the step takes it moves with the value given, before the sigmoid or not.
  HS_FN V moves(int i, int64_t t, int u, V d) {
    Lanes<V> at;
    const int G = int(in.group_size);
    block.place(at, u / G, u % G, in.parameter[i].b_stride, in.parameter[i].c_stride);
    return block.d_given(i, t, at, d);
  }

  HS_FN Given<DV> given(int u) const {
    const int k = block.pack[u];
    return {f[k], inputs[k], p[u], derived[u], first[u], block.limits.dt, nullptr, network + k * B::WEIGHTS};
  }
  void move_networks() {
    network = static_cast<DV*>(aligned_alloc(alignof(V), block.n_packs * B::WEIGHTS * sizeof(DV)));
    for (int k = 0; k < block.n_packs; ++k)
      each_network<Model>([&](auto of) {
        const View& t = in.t_network[of.number];
        const V* const value = block.network + k * block.network_stride + of.first;
        Lanes<V> lanes;
        block.place(lanes, k, 0, t.b_stride, 0);
        for (int i = 0; i < of.weights; ++i)
          network[k * B::WEIGHTS + of.first + i] =
              dual(value[i], t.data ? load<V>(as<T>(t.data) + i * t.t_stride, lanes) : V{});
      });
  }
  HS_FN void prepare() {
    for (int u = 0; u < block.n_units; ++u) {
      if constexpr (D > 0) Model::prepare(given(u), derived[u]);
      if constexpr (W > 0) Model::ordinates(given(u), ordinate + u * W);
    }
  }

  void count_in_use() {
    count_slots<Model>(block.in_use, [&](int slot, int held) {
      bool empty = true;
      for (int u = 0; u < block.n_units; ++u) {
        const DV w = ordinate[u * W + slot], m = content[u * M + held];
        empty &= !any(w.v != V{}) && !any(w.d[0] != V{}) && !any(m.v != V{}) && !any(m.d[0] != V{});
      }
      return empty;
    });
  }

  typename Lane<V>::bits advance(int64_t t) {
    const Run& run = in;
    const int G = int(run.group_size);
    typename Lane<V>::bits bad{};
    block.read_moving(t);
    for (int m = 0; m < block.n_moving; ++m) {
      const int i = block.moving[m];
      const View& d = in.t_parameter[i];
      const V* const value = apart(block.p[0] + i);
      for (int u = 0; u < block.n_units; ++u) {
        bad |= outside(value[u * P], block.limits.parameter[i]);
        p[u][i] = dual(value[u * P], d.data ? moves(i, t, u, load<V>(as<T>(d.data) + t * d.t_stride, moving_lanes[m][u])) : V{});
      }
    }
    if (B::PREPARES && block.n_moving > 0) prepare();
    for (int k = 0; k < block.n_packs; ++k) {
      block.read_forcing(t, k, B::AHEAD);
      for (int i = 0; i < F; ++i) {
        const View& d = in.t_forcing[i];
        bad |= outside(block.f[k][i], block.limits.forcing[i]);
        f[k][i] = dual(block.f[k][i], d.data ? load<V>(as<T>(d.data) + t * d.t_stride, forcing_lanes[k][i]) : V{});
      }
    }
    for (int u = 0; u < block.n_units; ++u) heads<Model>(content + u * M, ordinate + u * W, s[u] + S, first[u]);
    if constexpr (B::STAGED && Model::DUAL_STAGES) step_from<0>();
    else
      for (int u = 0; u < block.n_units; ++u) Model::step(given(u), s[u], q[u], kept[u]);
    for (int u = 0; u < block.n_units; ++u) {
      move_lines<Model>(content + u * M, ordinate + u * W, s[u] + S, block.in_use);
      for (int i = 0; i < S; ++i) q[u][Q + i] = s[u][i];
    }
    const int64_t total = run.n_basins * run.n_groups;
    for (int o = 0; o < run.n_outputs; ++o) {
      T* const row = as<T>(in.t_fluxes) + (o * run.n_steps + t) * (run.each ? block.cells_in_all() : total);
      for (int k = 0; k < block.n_packs; ++k) {
        V sum{};
        for (int u = k * G; u < (k + 1) * G; ++u) {
          const DV value = q[u][run.output[o]];
          if (run.each) store(row, block.series[u], value.d[0]);
          else sum = fma(weight[u].v, value.d[0], fma(weight[u].d[0], value.v, sum));
        }
        if (!run.each) store(row, block.columns[k], sum);
      }
    }
    return bad;
  }
  template <int STAGE> HS_FN void step_from() {
    stage<STAGE>();
    if constexpr (STAGE + 1 < Model::STAGES) step_from<STAGE + 1>();
  }
  template <int STAGE> HS_APART void stage() {
    for (int u = 0; u < block.n_units; ++u) {
      DV* to = q[u];
      Model::template stage<STAGE>(given(u), s[u], to, kept[u], between[u]);
    }
  }
};

}  // namespace HS_ISA
}  // namespace hs
