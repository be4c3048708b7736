// Gauss-Newton's normal equations of a calibration, in one pass forward: the Jacobian over time is never stored.
//
// For every cell (basin x start) the outflow runs through the unit hydrograph of the cell, y = h(theta), whose ordinates
// are handed in with their derivatives along its parameters, and with it its derivatives dy_j along the parameters that
// are asked for, the hydrograph's the last. Observations come as targets z in the transformed flow g(y), with weights w, 0 where there is
// none:
//     r(t) = w(t) (g(y(t)) - z(t)),  J_j(t) = w(t) g'(y(t)) dy_j(t):   cost = r'r,  gradient J'r,  normal matrix J'J.
// g: y, sqrt(y + e), ln(y + e), or Box and Cox's ((y + e)^l - 1) / l, with e of each basin.
//
// A task is one component of a pack of basins. The step is computed once for its values. Then its coefficients are made,
// and each derivative moves by them (model.h); or, of a model that has none, the step is taken again with the costly
// values known, for DIRECTIONS derivatives at a time, which stay in registers. TILE steps are kept before they are convolved and
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
  static constexpr int MOST_CHUNKS = (P + DIRECTIONS - 1) / DIRECTIONS, MOST = MOST_CHUNKS * DIRECTIONS;
  static constexpr int ROWS = (P + MAX_ROUTING + 3) / 4 * 4;  // of parameters, and a few of zeros
  static constexpr int WIDE = sizeof(V) < 64 ? 2 : 4;  // columns of 4 sums that the registers hold with what is summed
  using D = Dual<V, DIRECTIONS>;

  B block;
  const LeastSquares& in;
  Lanes<V> forcing_lanes[F], target, weight, cells, series;
  V inputs[C::some(K)], parameters[P], derived[C::some(Model::D)], state[HEADS], shift;
  // Along a parameter the tangents of the states, and of the outflow of the steps that the hydrograph needs and of a tile.
  struct Direction {
    V s[HEADS], q[PAST + TILE];
  } moving[MOST];
  Direction *of_parameter[P] = {}, *const of_none[P] = {};  // those of each parameter
  // What a step on dual numbers is given. It moves along the parameters of a chunk while that chunk is at work.
  D df[F], dk[C::some(K)], dp[P];
  V ordinate[C::some(W)], content[C::some(M)], given_line[C::some(LINES)];  // of the delay lines
  // What is prepared with its derivatives, and those of ordinates and contents; on the heap, for they may be many.
  D* prepared = nullptr;                       // [chunk][D]
  V *d_ordinate = nullptr, *d_content = nullptr;  // [direction][W], [direction][M]
  V slope[C::some(Model::SLOPES)];
  D* network = nullptr;  // weights of networks, which do not move
  // Of a hydrograph the first ordinates with derivatives, and the outflow of the steps that they need and of a tile.
  V w[SHORT], dw[MAX_ROUTING][SHORT];
  V q[PAST + TILE];
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
    for (int j = 0; j < along; ++j) of_parameter[direction[j]] = moving + j;
    if constexpr (Model::D > 0) prepared = room<D>(MOST_CHUNKS * Model::D);
    if constexpr (W > 0) d_ordinate = room<V>(MOST * (W + M)), d_content = d_ordinate + MOST * W;
    if (length <= SHORT) return;
    long_w = room<V>((1 + MAX_ROUTING) * length), history = room<V>((1 + P) * (past + TILE));
  }
  Sensitivity(const Sensitivity&) = delete;
  ~Sensitivity() { free(prepared), free(d_ordinate), free(network), free(long_w), free(history); }

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
      parameters[i] = load<V>(as<T>(run.parameter[i].data), lanes(run.parameter[i].b_stride, run.parameter[i].c_stride));
      bad |= outside(parameters[i], block.limits.parameter[i]);
    }
    if (any(bad)) return FAULT_PARAMETER;
    for (int i = 0; i < K; ++i) {
      inputs[i] = load<V>(as<T>(run.input[i].data), lanes(run.input[i].b_stride, 0));
      bad |= outside(inputs[i], block.limits.input[i]);
    }
    if (any(bad)) return FAULT_FORCING;
    for (int i = 0; i < S; ++i) state[i] = load<V>(as<T>(run.initial_state) + i * block.cells_in_all(), cells);
    for (int i = 0; i < S; ++i) bad |= outside(state[i], block.limits.state[i]);
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
    for (int i = 0; i < P; ++i) dp[i] = constant(parameters[i]);
    prepare();
    for (int64_t t = 0; t < run.n_steps; t += TILE) {
      const int steps = int(run.n_steps - t < TILE ? run.n_steps - t : TILE);
      bad |= advance(t, steps);
      route(steps);
      if (in.jacobian) put(t, steps);
      if (residuals(t, steps)) along == P ? sum<P + MAX_ROUTING>(steps, P + MAX_ROUTING) : sum<0>(steps, n);
      for (int i = 0; i < PAST; ++i) {
        q[i] = q[steps + i];
        for (int j = 0; j < along; ++j) moving[j].q[i] = moving[j].q[steps + i];
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
    for (Direction& one : moving) {
      for (int i = 0; i < PAST; ++i) one.q[i] = V{};
      for (V& d : one.s) d = V{};
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

  // The steps of a tile with their derivatives. Of what a step reads there are copies here: of these the compiler knows
  // that no derivative is stored there.
  typename Lane<V>::bits advance(int64_t t, int steps) {
    const Run& run = in;
    V k[C::some(K)], p[P], d[C::some(Model::D)], s[HEADS], f[F], before[HEADS], first[C::some(LINES)];
    copy(k, inputs), copy(p, parameters), copy(d, derived), copy(s, state);
    const Given<V> given{f, k, p, d, first, block.limits.dt, Model::LOOPS ? &beyond : nullptr, block.network};
    typename Model::template Kept<V> kept;
    typename Model::template Between<V> between;
    typename Model::template Linear<V> linear{};
    typename Lane<V>::bits bad{};
    for (int i = 0; i < steps; ++i, ++t) {
      for (int m = 0; m < F; ++m) {
        const T* row = as<T>(run.forcing[m].data) + t * run.forcing[m].t_stride;
        f[m] = load<V>(row, forcing_lanes[m]);
        B::fetch(row + B::AHEAD * run.forcing[m].t_stride, forcing_lanes[m]);
        bad |= outside(f[m], block.limits.forcing[m]);
      }
      heads<Model>(content, ordinate, s + S, first);
      copy(before, s);
      if constexpr (Model::LINEAR) {
        OutflowAlone<Model, V> to{q[PAST + i], V{}};
        step_from<0>(given, s, to, kept, between, linear, i ? of_parameter : of_none, PAST + i - 1);
        if (i) move_tangents(given_line);
        Model::linear(given, slope, before, kept, linear);
      } else {
        V flux[Q];
        Model::step(given, s, flux, kept);
        if constexpr (Model::LOOPS)
          if (any(beyond != V{})) note_passes(t);
        q[PAST + i] = flux[Model::OUTFLOW];
        for (int m = 0; m < F; ++m) df[m].v = f[m];
        for (int c = 0; c < chunks; ++c) derive(before, first, kept, c, PAST + i);
        move_tangents(s + S);
      }
      for (int l = 0; l < LINES; ++l) given_line[l] = s[S + l];
      move_lines<Model>(content, ordinate, given_line, block.in_use);
    }
    if constexpr (Model::LINEAR) {
      tangents<0, P>(linear, of_parameter, PAST + steps - 1);
      move_tangents(given_line);
    }
    copy(state, s);
    return bad;
  }
  template <int N> static HS_FN void copy(V (&to)[N], const V (&from)[N]) {
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
  // The values of a step, stage by stage, and after each stage a part of the derivatives of the step before: a step is a
  // chain of operations that wait for each other, and the derivatives are work that need not wait.
  template <int STAGE, class To, class Kept, class Between, class Linear>
  static HS_FN void step_from(const Given<V>& given, V* s, To& to, Kept& kept, Between& between, const Linear& linear,
                              Direction* const* of, int i) {
    Model::template stage<STAGE>(given, s, to, kept, between);
    tangents<P * STAGE / Model::STAGES, P * (STAGE + 1) / Model::STAGES>(linear, of, i);
    if constexpr (STAGE + 1 < Model::STAGES) step_from<STAGE + 1>(given, s, to, kept, between, linear, of, i);
  }
  template <int FROM, int TO, class Linear>
  static HS_FN void tangents(const Linear& linear, Direction* const* of, int i) {
    if constexpr (FROM < TO) {
      if (Direction* const to = of[FROM]) {
        V moved{};
        Model::template tangent<FROM>(linear, to->s, moved);
        to->q[i] = moved;
      }
      tangents<FROM + 1, TO>(linear, of, i);
    }
  }
  HS_FN void move_tangents(const V* put) {
    for (int j = 0; W > 0 && j < along; ++j) {
      V* const d_heads = moving[j].s + S;
      move_contents<Model>(d_content + j * M, ordinate, d_ordinate + j * W, put, d_heads, block.in_use);
      each_line<Model>([&](auto line) {
        if constexpr (line.slots > 1) d_heads[line.number] = d_content[j * M + line.content];
        else d_heads[line.number] = V{};
      });
    }
  }
  HS_FN void derive(const V* before, const V* first, const typename Model::template Kept<V>& kept, int c, int i) {
    D dx[HEADS], flux[Q], ordinates[C::some(LINES)];
    turn(c, T(1));
    for (int m = 0; m < HEADS; ++m) {
      dx[m].v = before[m];
      for (int k = 0; k < DIRECTIONS; ++k) dx[m].d[k] = moving[c * DIRECTIONS + k].s[m];
    }
    each_line<Model>([&](auto line) {
      ordinates[line.number].v = first[line.number];
      for (int k = 0; k < DIRECTIONS; ++k)
        ordinates[line.number].d[k] = d_ordinate[(c * DIRECTIONS + k) * W + line.ordinate];
    });
    typename Model::template Kept<D> dual = known<Model, D, V>(kept);
    const Given<D> given{df, dk, dp, prepared + c * Model::D, ordinates, block.limits.dt, nullptr, network};
    Model::template step<true>(given, dx, flux, dual);
    turn(c, T(0));
    for (int k = 0; k < DIRECTIONS; ++k) {
      Direction& to = moving[c * DIRECTIONS + k];
      for (int m = 0; m < HEADS; ++m) to.s[m] = dx[m].d[k];
      to.q[i] = flux[Model::OUTFLOW].d[k];
    }
  }
  // Sets the directions of chunk c in the parameters.
  HS_FN void turn(int c, T to) {
    for (int k = 0; k < DIRECTIONS && c * DIRECTIONS + k < along; ++k) dp[direction[c * DIRECTIONS + k]].d[k] = splat<V>(to);
  }
  // What follows from the parameters, and how it moves with them; the contents of the delay lines do not yet.
  void prepare() {
    const Given<V> given{nullptr, inputs, parameters, derived, nullptr, block.limits.dt, Model::LOOPS ? &beyond : nullptr};
    if constexpr (Model::D > 0) Model::prepare(given, derived);
    if constexpr (W > 0) Model::ordinates(given, ordinate);
    for (V& d : slope) d = V{};
    for (int i = 0; W > 0 && i < MOST * (W + M); ++i) d_ordinate[i] = V{};
    if constexpr (Model::D + W > 0) {
      D* const dual = room<D>(C::some(W));
      for (int c = 0; c < chunks; ++c) {
        D* const of_chunk = prepared + c * Model::D;
        turn(c, T(1));
        const Given<D> along_these{nullptr, dk, dp, of_chunk, nullptr, block.limits.dt};
        if constexpr (Model::D > 0) Model::prepare(along_these, of_chunk);
        if constexpr (W > 0) Model::ordinates(along_these, dual);
        turn(c, T(0));
        for (int k = 0, j = c * DIRECTIONS; k < DIRECTIONS && j < along; ++k, ++j) {
          for (int i = 0; i < W; ++i) d_ordinate[j * W + i] = dual[i].d[k];
          for (int n = 0; n < Model::SLOPES; ++n) {
            const int i = Model::SLOPE_OF[n][0];
            if (Model::SLOPE_OF[n][1] == direction[j]) slope[n] = (i < Model::D ? of_chunk[i] : dual[i - Model::D]).d[k];
          }
        }
      }
      free(dual);
      count_slots<Model>(block.in_use, [&](int slot, int held) {
        bool empty = !any(ordinate[slot] != V{}) && !any(content[held] != V{});
        for (int j = 0; j < along; ++j) empty &= !any(d_ordinate[j * W + slot] != V{});
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
    for (int j = 0; j < along; ++j) convolve(w, moving[j].q, dy[j], steps);
    for (int j = along; j < n; ++j) convolve(dw[j - along], q, dy[j], steps);
    if (!history) return;
    for (int j = 0; j <= along; ++j)
      for (int i = 0; i < steps; ++i) history[j * (past + TILE) + past + i] = (j ? moving[j - 1].q : q)[PAST + i];
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
    for (int a = 0; a < m; a += 4) {
      V total[4];
      for (int x = 0; x < 4; ++x) total[x] = gradient[a + x];
      for (int i = 0; i < steps; ++i)
        for (int x = 0; x < 4; ++x) total[x] = fma(dy[a + x][i], r[i], total[x]);
      for (int x = 0; x < 4; ++x) gradient[a + x] = total[x];
      for (int b = a; b < m; b += WIDE) add_products(steps, a, b);
    }
  }
  HS_FN void add_products(int steps, int a, int b) {
    V total[4][WIDE];
    for (int x = 0; x < 4; ++x)
      for (int z = 0; z < WIDE; ++z) total[x][z] = normal[a + x][b + z];
    for (int i = 0; i < steps; ++i)
      for (int x = 0; x < 4; ++x)
        for (int z = 0; z < WIDE; ++z) total[x][z] = fma(dy[a + x][i], dy[b + z][i], total[x][z]);
    for (int x = 0; x < 4; ++x)
      for (int z = 0; z < WIDE; ++z) normal[a + x][b + z] = total[x][z];
  }
};

}  // namespace HS_ISA
}  // namespace hs
