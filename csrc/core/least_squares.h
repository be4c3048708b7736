// Gauss-Newton's normal equations of a calibration, in one pass forward: the Jacobian over time is never stored.
//
// For every cell (basin x start) the outflow runs through the unit hydrograph of the cell, y = h(theta), whose ordinates
// are handed in with their derivatives along its parameters, and with it its derivatives dy_j along the parameters that
// are asked for, the hydrograph's the last. Observations come as targets z in the transformed flow g(y), with weights w, 0 where there is
// none:
//     r(t) = w(t) (g(y(t)) - z(t)),  J_j(t) = w(t) g'(y(t)) dy_j(t):   cost = r'r,  gradient J'r,  normal matrix J'J.
// g: y, sqrt(y + e), ln(y + e), or Box and Cox's ((y + e)^l - 1) / l, with e of each basin.
//
// A task is one component of a pack of basins. The step is computed once for its values and then, with the costly ones
// known, for DIRECTIONS derivatives at a time, which stay in registers. TILE steps are kept before they are convolved and
// summed, so that what is summed over time stays in registers as well. Each sum runs over time in order, tile by tile,
// whatever the threads are.
#pragma once

#include "drive.h"
#include "dual.h"
#include "residual.h"

namespace hs {
namespace HS_ISA {

template <class Model, class V> struct Sensitivity {
  using T = typename Lane<V>::scalar;
  using B = Block<Model, V>;
  using C = Counts<Model>;
  static constexpr int L = Lanes<V>::L, F = Model::F, K = Model::K, P = Model::P, S = Model::S, Q = Model::Q;
  static constexpr int W = C::W, M = C::M, HEADS = C::HEADS, LINES = Model::LINES;
  // Of a large model two directions at a time do not fit the registers and the first cache.
  static constexpr int DIRECTIONS = P > 24 ? 1 : 2, TILE = 32, SHORT = 15, PAST = SHORT - 1;
  static constexpr int MOST_CHUNKS = (P + DIRECTIONS - 1) / DIRECTIONS;
  static constexpr int ROWS = (P + MAX_ROUTING + 3) / 4 * 4;  // of parameters, and a few of zeros
  using D = Dual<V, DIRECTIONS>;

  B block;
  const LeastSquares& in;
  Lanes<V> forcing_lanes[F], target, weight, cells, series;
  V inputs[C::some(K)], p[P], derived[C::some(Model::D)], s[HEADS], ds[MOST_CHUNKS * DIRECTIONS][S], shift;
  // What a step on dual numbers is given. It moves along the parameters of a chunk while that chunk is at work.
  D df[F], dk[C::some(K)], dp[P];
  V ordinate[C::some(W)], content[C::some(M)];  // of the delay lines
  // The same with their derivatives, by chunk of these; on the heap, for they may be many.
  static constexpr int PREPARED = Model::D + W + M;
  D* prepared = nullptr;
  D* network = nullptr;  // weights of networks, which do not move
  // Of a hydrograph the first ordinates, and the outflow of the steps that they need and of a tile, with derivatives.
  V w[SHORT], dw[MAX_ROUTING][SHORT];
  V q[PAST + TILE], dq[MOST_CHUNKS * DIRECTIONS][PAST + TILE];
  // What a longer one needs besides, on the heap: ordinates [1 + MAX_ROUTING][length], outflow [1 + P][past + TILE].
  int direction[P];  // the parameters along which derivatives are carried: the first `along`
  const int along, n, chunks, length, past;
  V *long_w = nullptr, *history = nullptr;
  V r[TILE], y[TILE], dy[ROWS][TILE];
  V beyond{};            // as in Block
  bool passes_fault = false;
  V normal[ROWS][ROWS], gradient[ROWS], cost;

  static int64_t count(const LeastSquares& in) { return (in.n_basins + L - 1) / L * in.n_components; }

  template <class X> static X* room(int64_t n) {
    return static_cast<X*>(aligned_alloc(alignof(V), n * sizeof(X)));
  }
  explicit Sensitivity(const LeastSquares& in_)
      : block(in_), in(in_), along(directions(in_, direction)), n(along + in_.n_routing),
        chunks((along + DIRECTIONS - 1) / DIRECTIONS), length(int(in_.length)), past(length - 1) {
    if constexpr (PREPARED > 0) prepared = room<D>(MOST_CHUNKS * PREPARED);
    if (length <= SHORT) return;
    long_w = room<V>((1 + MAX_ROUTING) * length), history = room<V>((1 + P) * (past + TILE));
  }
  Sensitivity(const Sensitivity&) = delete;
  ~Sensitivity() { free(prepared), free(network), free(long_w), free(history); }

  static int directions(const LeastSquares& in, int* to) {
    int found = 0;
    for (int i = 0; i < P; ++i)
      if (in.along[i]) to[found++] = i;
    return found;
  }
  static int solve(const LeastSquares& in, int64_t task) { return Sensitivity(in).run(task); }

  int run(int64_t task) {
    const Run& run = in;
    const int64_t g = task % run.n_components;
    block.first_column = task / run.n_components * L;
    const auto lanes = [&](int64_t b, int64_t c) {
      Lanes<V> at;
      block.place(at, 0, g, b, c);
      return at;
    };
    for (int i = 0; i < F; ++i) forcing_lanes[i] = lanes(run.forcing[i].b_stride, 0);
    target = lanes(in.target.b_stride, 0), weight = lanes(in.weight.b_stride, 0);
    cells = lanes(run.n_components, 1), series = lanes(1, run.n_basins);
    typename Lane<V>::bits bad{};
    for (int i = 0; i < P; ++i) {
      p[i] = load<V>(as<T>(run.parameter[i].data), lanes(run.parameter[i].b_stride, run.parameter[i].c_stride));
      bad |= outside(p[i], block.limits.parameter[i]);
    }
    if (any(bad)) return FAULT_PARAMETER;
    for (int i = 0; i < K; ++i) {
      inputs[i] = load<V>(as<T>(run.input[i].data), lanes(run.input[i].b_stride, 0));
      bad |= outside(inputs[i], block.limits.input[i]);
    }
    if (any(bad)) return FAULT_FORCING;
    for (int i = 0; i < S; ++i) s[i] = load<V>(as<T>(run.initial_state) + i * block.cells_in_all(), cells);
    for (int i = 0; i < S; ++i) bad |= outside(s[i], block.limits.state[i]);
    for (int i = 0; i < M; ++i) {
      content[i] = load<V>(as<T>(run.initial_state) + (S + i) * block.cells_in_all(), cells);
      bad |= outside(content[i], {T(-1e30), T(1e30)});
    }
    if (any(bad)) return FAULT_STATE;
    if constexpr (B::WEIGHTS > 0) {
      block.n_packs = 1;
      if (any(block.read_networks())) return FAULT_WEIGHTS;
      network = room<D>(B::WEIGHTS);
      for (int i = 0; i < B::WEIGHTS; ++i) network[i] = constant(block.network[i]);
    }
    shift = load<V>(as<T>(in.shift.data), lanes(in.shift.b_stride, 0));
    for (int j = 0; j <= in.n_routing; ++j) {
      const View& from = j ? in.d_ordinates[j - 1] : in.ordinates;
      const Lanes<V> at = lanes(from.b_stride, from.c_stride);
      for (int k = 0; k < SHORT || k < length; ++k) {
        const V ordinate = k < length ? load<V>(as<T>(from.data) + k * from.t_stride, at) : V{};
        if (k < SHORT) (j ? dw[j - 1] : w)[k] = ordinate;
        if (long_w) long_w[j * length + k] = ordinate;
      }
    }
    zero();
    for (int i = 0; i < F; ++i) df[i] = D{};
    for (int i = 0; i < K; ++i) dk[i] = constant(inputs[i]);
    for (int i = 0; i < P; ++i) dp[i] = constant(p[i]);
    prepare();
    for (int64_t t = 0; t < run.n_steps; t += TILE) {
      const int steps = int(run.n_steps - t < TILE ? run.n_steps - t : TILE);
      for (int i = 0; i < steps; ++i) bad |= advance(t + i, i);
      route(steps);
      if (in.jacobian) put(t, steps);
      if (residuals(t, steps)) along == P ? sum<P + MAX_ROUTING>(steps, P + MAX_ROUTING) : sum<0>(steps, n);
      for (int i = 0; i < PAST; ++i) {
        q[i] = q[steps + i];
        for (int j = 0; j < along; ++j) dq[j][i] = dq[j][steps + i];
      }
      if (history) move_history(steps);
    }
    T* to = as<T>(in.normal);
    const int64_t all = block.cells_in_all();
    for (int i = 0; i < n; ++i)
      for (int j = i; j < n; ++j, to += all) store(to, cells, normal[i][j]);
    for (int j = 0; j < n; ++j, to += all) store(to, cells, gradient[j]);
    store(to, cells, cost);
    return (any(bad) ? FAULT_FORCING : 0) | (passes_fault ? FAULT_PASSES : 0);
  }

  __attribute__((noinline)) void note_passes(int64_t t) {
    passes_fault = true;
    for (int l = 0; in.faults && l < L; ++l)
      if (cells.used[l] && lane(beyond, l) != 0)
        note_passes_at(in.faults, t * block.cells_in_all() + cells.offset[l], double(lane(beyond, l)));
  }

  void zero() {
    for (int i = 0; i < PAST; ++i) q[i] = V{};
    for (int j = 0; j < MOST_CHUNKS * DIRECTIONS; ++j) {
      for (int i = 0; i < PAST; ++i) dq[j][i] = V{};
      for (int i = 0; i < S; ++i) ds[j][i] = V{};
    }
    if (history)
      for (int i = 0; i < (1 + P) * (past + TILE); ++i) history[i] = V{};
    for (int i = 0; i < ROWS; ++i) {
      gradient[i] = V{};
      for (int j = 0; j < ROWS; ++j) normal[i][j] = V{};
      for (int t = 0; t < TILE; ++t) dy[i][t] = V{};
    }
    cost = V{};
  }

  // One step with its derivatives; the outflow to place i of the tile.
  HS_FN typename Lane<V>::bits advance(int64_t t, int i) {
    const Run& run = in;
    V f[F], before[HEADS], flux[Q], first[C::some(LINES)];
    typename Lane<V>::bits bad{};
    for (int m = 0; m < F; ++m) {
      const T* row = as<T>(run.forcing[m].data) + t * run.forcing[m].t_stride;
      f[m] = load<V>(row, forcing_lanes[m]);
      B::fetch(row + B::AHEAD * run.forcing[m].t_stride + forcing_lanes[m].offset[0]);
      bad |= outside(f[m], block.limits.forcing[m]);
      df[m].v = f[m];
    }
    heads<Model>(content, ordinate, s + S, first);
    for (int m = 0; m < HEADS; ++m) before[m] = s[m];
    typename Model::template Kept<V> kept;
    Model::step(Given<V>{f, inputs, p, derived, first, block.limits.dt, Model::LOOPS ? &beyond : nullptr, block.network}, s,
                flux, kept);
    if constexpr (Model::LOOPS)
      if (any(beyond != V{})) note_passes(t);
    move_lines<Model>(content, ordinate, s + S, block.in_use);
    q[PAST + i] = flux[Model::OUTFLOW];
    for (int c = 0; c < chunks; ++c) derive(before, kept, c, i);
    return bad;
  }
  HS_FN void derive(const V* before, const typename Model::template Kept<V>& kept, int c, int i) {
    D dx[HEADS], flux[Q], first[C::some(LINES)];
    D* const of_chunk = prepared + c * PREPARED;
    turn(c, T(1));
    heads<Model>(of_chunk + Model::D + W, of_chunk + Model::D, dx + S, first);
    for (int m = 0; m < S; ++m) {
      dx[m].v = before[m];
      for (int k = 0; k < DIRECTIONS; ++k) dx[m].d[k] = ds[c * DIRECTIONS + k][m];
    }
    typename Model::template Kept<D> dual = known<Model, D, V>(kept);
    Model::template step<true>(Given<D>{df, dk, dp, of_chunk, first, block.limits.dt, nullptr, network}, dx, flux, dual);
    move_lines<Model>(of_chunk + Model::D + W, of_chunk + Model::D, dx + S, block.in_use);
    turn(c, T(0));
    for (int k = 0; k < DIRECTIONS; ++k) {
      for (int m = 0; m < S; ++m) ds[c * DIRECTIONS + k][m] = dx[m].d[k];
      dq[c * DIRECTIONS + k][PAST + i] = flux[Model::OUTFLOW].d[k];
    }
  }
  // Sets the directions of chunk c in the parameters.
  HS_FN void turn(int c, T to) {
    for (int k = 0; k < DIRECTIONS && c * DIRECTIONS + k < along; ++k) dp[direction[c * DIRECTIONS + k]].d[k] = splat<V>(to);
  }
  // What follows from the parameters, and the contents of the delay lines, which do not move with them yet.
  void prepare() {
    if constexpr (PREPARED > 0) {
      const Given<V> given{nullptr, inputs, p, derived, nullptr, block.limits.dt, Model::LOOPS ? &beyond : nullptr};
      if constexpr (Model::D > 0) Model::prepare(given, derived);
      if constexpr (W > 0) Model::ordinates(given, ordinate);
      for (int c = 0; c < chunks; ++c) {
        D* const of_chunk = prepared + c * PREPARED;
        turn(c, T(1));
        const Given<D> moving{nullptr, dk, dp, of_chunk, nullptr, block.limits.dt};
        if constexpr (Model::D > 0) Model::prepare(moving, of_chunk);
        if constexpr (W > 0) Model::ordinates(moving, of_chunk + Model::D);
        for (int m = 0; m < M; ++m) of_chunk[Model::D + W + m] = constant(content[m]);
        turn(c, T(0));
      }
      count_slots<Model>(block.in_use, [&](int slot, int held) {
        bool empty = !any(ordinate[slot] != V{}) && !any(content[held] != V{});
        for (int c = 0; c < chunks; ++c)
          for (V d : prepared[c * PREPARED + Model::D + slot].d) empty &= !any(d != V{});
        return empty;
      });
    }
  }
  static HS_FN D constant(V v) {
    D r{};
    r.v = v;
    return r;
  }

  // The steps of a tile through the first ordinates, eight at a time: what is past them nobody reads.
  HS_FN void convolve(const V* ordinate, const V* from, V* into, int steps) const {
    for (int i = 0; i < steps; i += 8) {
      V sum[8];
      for (int l = 0; l < 8; ++l) sum[l] = V{};
      for (int k = 0; k < SHORT; ++k)
        for (int l = 0; l < 8; ++l) sum[l] = fma(ordinate[k], from[PAST + i + l - k], sum[l]);
      for (int l = 0; l < 8; ++l) into[i + l] = sum[l];
    }
  }
  void route(int steps) {
    convolve(w, q, y, steps);
    for (int j = 0; j < along; ++j) convolve(w, dq[j], dy[j], steps);
    for (int j = along; j < n; ++j) convolve(dw[j - along], q, dy[j], steps);
    if (!history) return;
    for (int j = 0; j <= along; ++j)
      for (int i = 0; i < steps; ++i) history[j * (past + TILE) + past + i] = (j ? dq[j - 1] : q)[PAST + i];
    for (int j = 0; j <= along; ++j) add_later(long_w, history + j * (past + TILE), j ? dy[j - 1] : y, steps);
    for (int j = along; j < n; ++j) add_later(long_w + (1 + j - along) * length, history, dy[j], steps);
  }
  // The ordinates behind the first.
  void add_later(const V* ordinate, const V* from, V* into, int steps) const {
    for (int k = SHORT; k < length; ++k)
      for (int i = 0; i < steps; ++i) into[i] = fma(ordinate[k], from[past + i - k], into[i]);
  }
  void move_history(int steps) {
    for (int j = 0; j <= along; ++j)
      for (int i = 0; i < past; ++i) history[j * (past + TILE) + i] = history[j * (past + TILE) + steps + i];
  }

  void put(int64_t t, int steps) {
    const int64_t all = block.cells_in_all();
    for (int i = 0; i < steps; ++i) {
      store(as<T>(in.flow) + (t + i) * all, series, y[i]);
      for (int j = 0; j < n; ++j) store(as<T>(in.jacobian) + (j * in.n_steps + t + i) * all, series, dy[j][i]);
    }
  }

  // Residuals, and the derivatives as those of residuals; false if nothing in the tile has weight.
  bool residuals(int64_t t, int steps) {
    bool weighs = false;
    V slope[TILE];
    for (int i = 0; i < steps; ++i) {
      const V weights = load<V>(as<T>(in.weight.data) + (t + i) * in.weight.t_stride, weight);
      weighs |= any(weights > V{});
      const V observed = load<V>(as<T>(in.target.data) + (t + i) * in.target.t_stride, target);
      r[i] = residual(in.transform, T(in.exponent), y[i], shift, observed, weights, slope[i]);
    }
    if (!weighs) return false;
    for (int j = 0; j < n; ++j)
      for (int i = 0; i < steps; ++i) dy[j][i] = dy[j][i] * slope[i];
    return true;
  }

  // `m` columns of derivatives, whose number the compiler knows if it is KNOWN, and then is faster.
  template <int KNOWN> void sum(int steps, int m) {
    if (KNOWN) m = KNOWN;
    for (int i = 0; i < steps; ++i) cost = fma(r[i], r[i], cost);
    for (int j = 0; j < m; ++j) {
      V total = gradient[j];
      for (int i = 0; i < steps; ++i) total = fma(dy[j][i], r[i], total);
      gradient[j] = total;
    }
    for (int a = 0; a < m; a += 4)
      for (int b = a; b < m; b += 4) {
        V total[4][4];
        for (int x = 0; x < 4; ++x)
          for (int z = 0; z < 4; ++z) total[x][z] = normal[a + x][b + z];
        for (int i = 0; i < steps; ++i)
          for (int x = 0; x < 4; ++x)
            for (int z = 0; z < 4; ++z) total[x][z] = fma(dy[a + x][i], dy[b + z][i], total[x][z]);
        for (int x = 0; x < 4; ++x)
          for (int z = 0; z < 4; ++z) normal[a + x][b + z] = total[x][z];
      }
  }
};

}  // namespace HS_ISA
}  // namespace hs
