// Derivatives carried forward on a GPU: one along any direction (tangent.h), and the normal equations of a calibration
// (least_squares.h). Beside them: cuda.cuh, the run itself.
#pragma once

#include "cuda.cuh"
#include "dual.h"
#include "residual.h"

namespace hs {
namespace HS_ISA {

// A thread is a cell, with one derivative beside each of its values. The run along which it goes has been made, and has
// said what of its inputs is out of bounds.
template <class Model, class T>
__global__ void __launch_bounds__(WARP) tangent_kernel(const __grid_constant__ Tangent in,
                                                       const __grid_constant__ Limits<Model, T> limits) {
  using N = Counts<Model>;
  constexpr int F = Model::F, K = Model::K, P = Model::P, S = Model::S, Q = Model::Q;
  using D = Dual<T, 1>;
  const Run& run = in;
  Cell<Model, T, true> cell(run, limits, blockIdx.x);
  const int n_steps = int(run.n_steps);
  const auto along = [&](const View& v, int t) {
    return v.data ? as<T>(v.data)[t * v.t_stride + cell.basin * v.b_stride + cell.component * v.c_stride] : T(0);
  };

  D k[N::some(K)], p[P], derived[N::some(Model::D)], s[N::HEADS], w[N::some(N::W)], m[N::some(N::M)];
#pragma unroll
  for (int i = 0; i < K; ++i) k[i] = {cell.k[i], {T(0)}};
  const auto state = [&](int i) {
    const int64_t at = i * cell.n_cells + cell.index;
    return D{as<T>(run.initial_state)[at], {in.t_initial_state ? as<T>(in.t_initial_state)[at] : T(0)}};
  };
#pragma unroll
  for (int i = 0; i < S; ++i) s[i] = state(i);
  for (int i = 0; i < N::M; ++i) m[i] = state(S + i);
  D n[N::some(Model::WEIGHTS)];
  each_network<Model>([&](auto of) {
    const View& v = in.t_network[of.number];
    for (int i = 0; i < of.weights; ++i)
      n[of.first + i] = {cell.n[of.first + i], {v.data ? as<T>(v.data)[i * v.t_stride + cell.basin * v.b_stride] : T(0)}};
  });
  const T d_weight = along(in.t_weights, 0);
  const int64_t row = has_each(run) ? cell.n_cells : cell.n_columns;
  const bool writes = has_each(run) ? cell.used : cell.first;
  T* out = as<T>(in.t_fluxes) + (has_each(run) ? cell.index : cell.column);
  const auto put = [&](int place, D value) {
    T d = value.d[0];
    if (!has_each(run)) d = over_components(cell.used ? fma(cell.weight, d, d_weight * value.v) : T(0), width_of(run));
    if (writes) out[place * (n_steps * row)] = d;
  };

  Forcing<Model, T, 1> forcing(run, cell.basin, 0, n_steps);
  cell.read_ahead(0);
  for (int t = 0; t < n_steps; ++t, out += row) {
    forcing.read_ahead();
    cell.move(t + 1 < n_steps ? t + 1 : t);
    D f[F], q[Q], first[N::some(Model::LINES)];
#pragma unroll
    for (int i = 0; i < F; ++i) f[i] = {forcing.now[i], {along(in.t_forcing[i], t)}};
#pragma unroll
    for (int i = 0; i < P; ++i) {
      const T d = along(in.t_parameter[i], t);
      p[i] = {cell.p[i], {in.t_parameter[i].data ? cell.d_given(d, i, t) : d}};
    }
    const Given<D> given{f, k, p, derived, first, limits.dt, nullptr, n};
    if constexpr (Model::D > 0) Model::prepare(given, derived);
    if constexpr (N::W > 0) Model::ordinates(given, w);
    typename Model::template Kept<D> kept;
    heads<Model>(m, w, s + S, first);
    Model::step(given, s, q, kept);
    move_lines<Model>(m, w, s + S, nullptr);
#pragma unroll
    for (int i = 0; i < Q + S; ++i)
      if (slot_of(run, i) >= 0) put(slot_of(run, i), i < Q ? q[i < Q ? i : 0] : s[i < Q ? 0 : i - Q]);
    forcing.advance();
  }
  if (cell.used) {
#pragma unroll
    for (int i = 0; i < S; ++i) as<T>(in.t_final_state)[i * cell.n_cells + cell.index] = s[i].d[0];
    for (int i = 0; i < N::M; ++i) as<T>(in.t_final_state)[(S + i) * cell.n_cells + cell.index] = m[i].d[0];
  }
}

// A cell takes as many neighbouring lanes as it has parameters, padded to 16 or 32: each steps the values and the
// derivative along a parameter of its own, the hydrograph's the last, and sums its row of the normal matrix from what
// the others hand it in shuffles. Of more than 32 parameters a lane has several. All lanes stay to the end: those past
// the last cell repeat another.
template <class Model, class T>
__global__ void __launch_bounds__(WARP) least_squares_kernel(const __grid_constant__ LeastSquares in,
                                                             const __grid_constant__ Limits<Model, T> limits) {
  using C = Counts<Model>;
  constexpr int F = Model::F, K = Model::K, P = Model::P, S = Model::S, Q = Model::Q, MOST = P + MAX_ROUTING;
  constexpr int WIDTH = MOST <= 16 ? 16 : 32, PER_LANE = (MOST + WIDTH - 1) / WIDTH;
  constexpr int LENGTH = MOST_ORDINATES;
  // Of several parameters a lane the arrays would not fit the registers: there they lie in the thread's memory, and loops
  // over them stay loops, which also compiles in half the time.
  constexpr int UNROLLED = PER_LANE == 1 ? 64 : 1;
  using D = Dual<T, PER_LANE>;
  const Run& run = in;
  const int N = P + in.n_routing;
  const int lane = threadIdx.x % WIDTH;
  const int64_t n_cells = run.n_basins * run.n_components;
  int64_t cell = int64_t(blockIdx.x) * (WARP / WIDTH) + threadIdx.x / WIDTH;
  const bool used = cell < n_cells;
  if (!used) cell = n_cells - 1;
  const int64_t b = cell / run.n_components, c = cell % run.n_components;
  const auto at = [&](const View& v, int64_t t) {
    return __ldg(as<T>(v.data) + t * v.t_stride + b * v.b_stride + c * v.c_stride);
  };

  // The parameter of that number, or a constant where it is none.
  const auto dual = [&](T value, int parameter) {
    D x;
    x.v = value;
#pragma unroll
    for (int r = 0; r < PER_LANE; ++r) x.d[r] = T(lane + r * WIDTH == parameter);
    return x;
  };

  D k[C::some(K)], p[P], derived[C::some(Model::D)], s[C::HEADS], w[LENGTH], past[LENGTH];
  D ordinate[C::some(C::W)], content[C::some(C::M)];  // of the delay lines
  D beyond{};                                               // as in Cell
  const auto noted = [](D& x) { return Model::LOOPS ? &x : nullptr; };
  bool inputs_good = true, parameters_good = true, state_good = true, weights_good = true;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    k[i] = dual(at(run.input[i], 0), -1);
    inputs_good = inputs_good && within(k[i].v, limits.input[i]);
  }
#pragma unroll
  for (int i = 0; i < P; ++i) {
    p[i] = dual(at(run.parameter[i], 0), i);
    parameters_good = parameters_good && within(p[i].v, limits.parameter[i]);
  }
#pragma unroll
  for (int i = 0; i < S; ++i) {
    s[i] = dual(as<T>(run.initial_state)[i * n_cells + cell], -1);
    state_good = state_good && within(s[i].v, limits.state[i]);
  }
  for (int i = 0; i < C::M; ++i) {
    content[i] = dual(as<T>(run.initial_state)[(S + i) * n_cells + cell], -1);
    state_good = state_good && within(content[i].v, -1e30, 1e30);
  }
  D n[C::some(Model::WEIGHTS)];
  each_network<Model>([&](auto of) {
    const View& from = run.network[of.number];
    for (int i = 0; i < of.weights; ++i) {
      D& to = n[of.first + i];
      to = dual(as<T>(from.data)[i * from.t_stride + b * from.b_stride], -1);
      weights_good = weights_good && within(to.v, -1e30, 1e30);
    }
  });
  if constexpr (Model::D + C::W > 0) {
    Apart<Model, D> apart(k, p, derived);
    if constexpr (Model::D > 0) Model::prepare(apart.with(limits.dt, noted(apart.beyond)), apart.d);
    if constexpr (C::W > 0) Model::ordinates(apart.with(limits.dt, noted(apart.beyond)), ordinate);
    copy<Model::D>(derived, apart.d);
    beyond = apart.beyond;
  }
#pragma unroll UNROLLED
  for (int k = 0; k < LENGTH; ++k) {
    past[k] = w[k] = D{};
    if (k >= in.length) continue;
    w[k].v = at(in.ordinates, k);
#pragma unroll
    for (int r = 0; r < PER_LANE; ++r) {
      const int j = lane + r * WIDTH - P;
      if (j >= 0 && j < in.n_routing) w[k].d[r] = at(in.d_ordinates[j], k);
    }
  }
  const T shift = at(in.shift, 0);
  T row[PER_LANE][PER_LANE * WIDTH], gradient[PER_LANE], cost = 0;
#pragma unroll
  for (int r = 0; r < PER_LANE; ++r) {
    gradient[r] = 0;
#pragma unroll UNROLLED
    for (int k = 0; k < PER_LANE * WIDTH; ++k) row[r][k] = 0;
  }

  const int n_steps = int(run.n_steps);
  int bad_forcing = inputs_good ? n_steps : 0, bad_passes = n_steps;
  for (int t = 0; t < n_steps; ++t) {
    D f[F], q[Q], first[C::some(Model::LINES)];
#pragma unroll
    for (int i = 0; i < F; ++i) {
      f[i] = dual(at(run.forcing[i], t), -1);
      if (bad_forcing == n_steps && !within(f[i].v, limits.forcing[i])) bad_forcing = t;
    }
    typename Model::template Kept<D> kept;
    heads<Model>(content, ordinate, s + S, first);
    Model::step(Given<D>{f, k, p, derived, first, limits.dt, noted(beyond), n}, s, q, kept);
    if (beyond.v != 0 && bad_passes == n_steps) bad_passes = t;
    move_lines<Model>(content, ordinate, s + S, nullptr);
#pragma unroll UNROLLED
    for (int k = LENGTH - 1; k > 0; --k) past[k] = past[k - 1];
    past[0] = q[Model::OUTFLOW];
    D y{};
#pragma unroll UNROLLED
    for (int k = 0; k < LENGTH; ++k) y = fma(w[k], past[k], y);
    if (in.jacobian && used) {
#pragma unroll
      for (int r = 0; r < PER_LANE; ++r) {
        const int64_t mine = lane + r * WIDTH;
        if (mine < N) as<T>(in.jacobian)[(mine * n_steps + t) * n_cells + cell] = y.d[r];
      }
      if (lane == 0) as<T>(in.flow)[t * n_cells + cell] = y.v;
    }
    T slope;
    const T r = residual(in.transform, T(in.exponent), y.v, shift, at(in.target, t), at(in.weight, t), slope);
    cost = fma(r, r, cost);
    T j[PER_LANE];
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
      j[i] = y.d[i] * slope;
      gradient[i] = fma(j[i], r, gradient[i]);
    }
#pragma unroll UNROLLED
    for (int k = 0; k < PER_LANE * WIDTH; ++k) {
      const T other = __shfl_sync(~0u, j[k / WIDTH], k % WIDTH, WIDTH);
#pragma unroll
      for (int i = 0; i < PER_LANE; ++i) row[i][k] = fma(j[i], other, row[i][k]);
    }
  }

  const T nan = from_bits<T>(as_bits(T(0)) - 1);
  const bool good = parameters_good && state_good && weights_good && bad_forcing == n_steps && bad_passes == n_steps;
  const int64_t triangle = N * (N + 1) / 2;
  T* to = as<T>(in.normal) + cell;
#pragma unroll
  for (int r = 0; r < PER_LANE; ++r) {
    const int64_t mine = lane + r * WIDTH, before = mine * N - mine * (mine - 1) / 2;  // numbers of the rows above
    if (!used || mine >= N) continue;
#pragma unroll UNROLLED
    for (int k = 0; k < PER_LANE * WIDTH; ++k)
      if (k >= mine && k < N) to[(before + k - mine) * n_cells] = good ? row[r][k] : nan;
    to[(triangle + mine) * n_cells] = good ? gradient[r] : nan;
  }
  if (used && lane == 0) to[(triangle + N) * n_cells] = good ? cost : nan;
  if (!run.faults) return;
  note(run.faults, used && bad_forcing < n_steps, bad_forcing * n_cells + cell);
  note(run.faults + 1, used && !parameters_good, cell);
  note(run.faults + 2, used && !state_good, cell);
  if constexpr (Model::WEIGHTS > 0) note(run.faults + 3, used && !weights_good, cell);
  if constexpr (Model::LOOPS) note(run.faults + 4, used && bad_passes < n_steps, bad_passes * n_cells + cell);
}

}  // namespace HS_ISA
}  // namespace hs
