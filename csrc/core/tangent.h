// One derivative of a run along a direction given for any of its inputs: the model's step on dual numbers of one
// direction, over the same blocks as the run itself (drive.h). What the adjoint is the transpose of.
#pragma once

#include "drive.h"
#include "dual.h"

namespace hs {
namespace HS_ISA {

template <class Model, class V> struct Forward {
  using T = typename Lane<V>::scalar;
  using B = Block<Model, V>;
  using D = Dual<V, 1>;
  static constexpr int F = Model::F, P = Model::P, S = Model::S, Q = Model::Q, MOST = B::MAX_UNITS;

  const Tangent& in;
  B block;
  Lanes<V> forcing_lanes[MOST][F], moving_lanes[P][MOST];
  D p[MOST][P], s[MOST][S], weight[MOST];

  explicit Forward(const Tangent& in_) : in(in_), block(in_) {}
  static int64_t count(const Tangent& in) { return B::count(in); }
  static int solve(const Tangent& in, int64_t index) { return Forward(in).run(index); }

  static HS_FN D dual(V v, V d) { return {v, {d}}; }

  int run(int64_t index) {
    const Run& run = in;
    if (const int fault = block.enter(index)) return fault;
    const int G = int(run.group_size);
    const int64_t all = block.cells_in_all();
    for (int u = 0; u < block.n_units; ++u) {
      Lanes<V> at;
      for (int i = 0; i < P; ++i) {
        const View& t = in.t_parameter[i];
        block.lie(at, u / G, u % G, t.b_stride, t.c_stride);
        p[u][i] = dual(block.p[u][i], t.data ? moves(i, 0, u, load<V>(as<T>(t.data), at)) : V{});
      }
      for (int m = 0; m < block.n_moving; ++m) {
        const View& t = in.t_parameter[block.moving[m]];
        block.lie(moving_lanes[m][u], u / G, u % G, t.b_stride, t.c_stride);
      }
      for (int i = 0; i < S; ++i)
        s[u][i] = dual(block.s[u][i], in.t_initial_state ? load<V>(as<T>(in.t_initial_state) + i * all, block.cells[u]) : V{});
      block.lie(at, u / G, u % G, in.t_weights.b_stride, in.t_weights.c_stride);
      weight[u] = dual(block.weight[u], in.t_weights.data ? B::only_used(block.cells[u], load<V>(as<T>(in.t_weights.data), at)) : V{});
    }
    for (int k = 0; k < block.n_packs; ++k)
      for (int i = 0; i < F; ++i) block.lie(forcing_lanes[k][i], k, 0, in.t_forcing[i].b_stride, 0);
    typename Lane<V>::bits bad{};
    for (int64_t t = 0; t < run.n_steps; ++t) bad |= advance(t);
    for (int u = 0; u < block.n_units; ++u)
      for (int i = 0; i < S; ++i) store(as<T>(in.t_final_state) + i * all, block.cells[u], s[u][i].d[0]);
    return any(bad) ? FAULT_FORCING | FAULT_PARAMETER : 0;
  }

  // How a parameter as the step takes it moves with the value given, before the sigmoid or not.
  HS_FN V moves(int i, int64_t t, int u, V d) {
    Lanes<V> at;
    const int G = int(in.group_size);
    block.lie(at, u / G, u % G, in.parameter[i].b_stride, in.parameter[i].c_stride);
    return block.d_given(i, t, at, d);
  }

  typename Lane<V>::bits advance(int64_t t) {
    const Run& run = in;
    const int G = int(run.group_size);
    typename Lane<V>::bits bad{};
    block.read_moving(t);
    for (int m = 0; m < block.n_moving; ++m) {
      const int i = block.moving[m];
      const View& d = in.t_parameter[i];
      for (int u = 0; u < block.n_units; ++u) {
        bad |= outside(block.p[u][i], block.limits.parameter[i]);
        p[u][i] = dual(block.p[u][i], d.data ? moves(i, t, u, load<V>(as<T>(d.data) + t * d.t_stride, moving_lanes[m][u])) : V{});
      }
    }
    for (int k = 0; k < block.n_packs; ++k) {
      V values[F];
      D f[F];
      V sums[MAX_OUTPUTS];
      block.read_forcing(t, k, B::AHEAD, values);
      for (int i = 0; i < F; ++i) {
        const View& d = in.t_forcing[i];
        bad |= outside(values[i], block.limits.forcing[i]);
        f[i] = dual(values[i], d.data ? load<V>(as<T>(d.data) + t * d.t_stride, forcing_lanes[k][i]) : V{});
      }
      for (int o = 0; o < run.n_outputs; ++o) sums[o] = V{};
      for (int u = k * G; u < (k + 1) * G; ++u) {
        D q[Q + S];
        typename Model::template Kept<D> kept;
        Model::step(f, p[u], s[u], q, kept);
        for (int i = 0; i < S; ++i) q[Q + i] = s[u][i];
        for (int o = 0; o < run.n_outputs; ++o) {
          const D value = q[run.output[o]];
          if (run.each)
            store(as<T>(in.t_fluxes) + (o * run.n_steps + t) * block.cells_in_all(), block.series[u], value.d[0]);
          else
            sums[o] = fma(weight[u].v, value.d[0], fma(weight[u].d[0], value.v, sums[o]));
        }
      }
      const int64_t total = run.n_basins * run.n_groups;
      if (!run.each)
        for (int o = 0; o < run.n_outputs; ++o)
          store(as<T>(in.t_fluxes) + (o * run.n_steps + t) * total, block.columns[k], sums[o]);
    }
    return bad;
  }
};

}  // namespace HS_ISA
}  // namespace hs
