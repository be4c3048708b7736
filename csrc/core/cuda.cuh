// The time loop over any model, and its adjoint, on a GPU: one thread is one cell. Beside it: drive.h, the CPU's.
//
// A block is one warp, so that few cells spread over the whole card, and nothing waits for anything but the lanes of
// its own warp. The components of a basin, or of a group of them, are neighbouring lanes, padded to `width`, a power of
// two; then comes the next column (a basin's group). Sums over components are butterflies of shuffles inside `width`
// lanes, whose order C alone decides. All lanes stay in the loops to the end: those past the last cell repeat another,
// write nothing and add 0.
//
// Stores, static parameters and their adjoints are in registers from the first step to the last. Registers have no
// addresses: every loop over an array of them is unrolled, and which outputs are wanted is looked up by flux.
//
// The adjoint goes back segment by segment: the states before a segment's steps are made again from its checkpoint and
// laid on a tape, in the multiprocessor's own memory where they fit, then the steps are reversed. The powers of a step
// are made again with it: the tape would be twice as long with them.
//
// Contents and ordinates of delay lines are many, and their loops are not unrolled: they lie in the thread's local
// memory, where the first-level cache has them.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <cuda_runtime.h>
#endif

#include "launch.h"
#include "model.h"

namespace hs {
namespace HS_ISA {

// What a kernel asks of its run again and again. NVRTC, which compiles for the run at hand, is told it by macros, and the
// code for all else falls away: HS_WIDTH the lanes of a component sum, HS_EACH and HS_RAW as the run has them, HS_PER_STEP
// a bit for each parameter with a value for every step, HS_SLOTS the places of fluxes and states among the outputs.
#if defined(HS_WIDTH)
__device__ constexpr int width_of(const Run&) { return HS_WIDTH; }
__device__ constexpr bool has_each(const Run&) { return HS_EACH; }
__device__ constexpr bool is_raw(const Run&) { return HS_RAW; }
__device__ constexpr bool is_per_step(const Run&, int i) { return HS_PER_STEP >> i & 1; }
__device__ __forceinline__ int slot_of(const Run&, int i) {
  constexpr signed char slots[] = {HS_SLOTS};
  return slots[i];
}
#else
__device__ __forceinline__ int width_of(const Run& run) { return run.width; }
__device__ __forceinline__ bool has_each(const Run& run) { return run.each; }
__device__ __forceinline__ bool is_raw(const Run& run) { return run.raw; }
__device__ __forceinline__ bool is_per_step(const Run& run, int i) { return run.per_step[i]; }
__device__ __forceinline__ int slot_of(const Run& run, int i) { return run.slot[i]; }
#endif

template <class T> __device__ __forceinline__ bool within(T x, Bounds<T> bounds) {  // false for a NaN
  return x >= bounds.lower && x <= bounds.upper;
}
template <class T> __device__ __forceinline__ bool within(T x, double lower, double upper) {
  return within(x, Bounds<T>{T(lower), T(upper)});
}

template <class T> __device__ __forceinline__ T over_components(T x, int width) {
  if (width > 16) x += __shfl_xor_sync(~0u, x, 16);
  if (width > 8) x += __shfl_xor_sync(~0u, x, 8);
  if (width > 4) x += __shfl_xor_sync(~0u, x, 4);
  if (width > 2) x += __shfl_xor_sync(~0u, x, 2);
  if (width > 1) x += __shfl_xor_sync(~0u, x, 1);
  return x;
}

// Hides from the compiler that addresses follow from those of the step before: it would carry those of all per-step
// parameters from step to step, in some seventy registers, and a multiprocessor would hold half as many warps.
__device__ __forceinline__ void hide(int& x) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(x));
#endif
}
__device__ __forceinline__ void hide(int64_t& x) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(x));
#endif
}

// The least place of a fault in the warp goes to `least`. Nothing is sent where there is none: `least` may be memory of
// the host.
__device__ __forceinline__ void note(int64_t* least, bool found, int64_t place) {
  if (!__any_sync(~0u, found)) return;
  long long mine = found ? place : (1ll << 62);
  for (int apart = WARP / 2; apart; apart /= 2) {
    const long long other = __shfl_xor_sync(~0u, mine, apart);
    mine = other < mine ? other : mine;
  }
  if (threadIdx.x == 0 && least) atomicMin(reinterpret_cast<long long*>(least), mine);
}

template <int N, class V> __device__ __forceinline__ void copy(V* to, const V* from) {
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = from[i];
}

// What is prepared is made of copies: a model may do it in functions apart, for which arrays need addresses, and those
// of the time loop are to have none.
template <class Model, class V> struct Apart {
  using N = Counts<Model>;
  V k[N::some(Model::K)], p[Model::P], d[N::some(Model::D)], beyond{};

  __device__ __forceinline__ Apart(const V* k_, const V* p_, const V* d_) {
    copy<Model::K>(k, k_), copy<Model::P>(p, p_), copy<Model::D>(d, d_);
  }
  __device__ __forceinline__ Given<V> with(typename Lane<V>::scalar dt, V* noted = nullptr) const {
    return {nullptr, k, p, d, nullptr, dt, noted};
  }
};

// A cell, with what does not change from step to step. Per-step parameters (MOVING: there are some) are read a step
// before they are wanted.
template <class Model, class T, bool MOVING> struct Cell {
  using N = Counts<Model>;
  static constexpr int K = Model::K, P = Model::P, D = Model::D, S = Model::S, W = N::W, M = N::M;
  static constexpr int LINES = Model::LINES;
  static constexpr bool PREPARES = D + W > 0;

  const Run& run;
  const Limits<Model, T>& limits;
  int64_t n_cells, n_columns;
  int64_t column, basin, component, index;  // index: of the cell, in arrays [.., B, C]
  bool used, first;                         // first: the lane that writes its column's sums
  T k[N::some(K)], p[P], d[N::some(D)], given[MOVING ? P : 1], weight;
  T w[N::some(W)], m[N::some(M)];  // ordinates and contents of the delay lines
  T n[N::some(Model::WEIGHTS)];    // weights of networks, in the thread's local memory too
  T beyond = 0;                    // 1 where a loop is to make more passes than it may
  bool inputs_good = true, networks_good = true;

  __device__ __forceinline__ Cell(const Run& run, const Limits<Model, T>& limits, int64_t block)
      : run(run), limits(limits) {
    n_cells = run.n_basins * run.n_components, n_columns = run.n_basins * run.n_groups;
    const int lane = threadIdx.x, g = lane % width_of(run);
    column = block * (WARP / width_of(run)) + lane / width_of(run);
    used = column < n_columns && g < run.group_size;
    if (column >= n_columns) column = n_columns - 1;
    basin = column / run.n_groups;
    component = column % run.n_groups * run.group_size + g;
    used = used && component < run.n_components;
    if (component >= run.n_components) component = run.n_components - 1;
    index = basin * run.n_components + component;
    first = used && g == 0;
    weight = T(1) / T(run.n_components);
    if (run.weights.data)
      weight = __ldg(as<T>(run.weights.data) + basin * run.weights.b_stride + component * run.weights.c_stride);
#pragma unroll
    for (int i = 0; i < K; ++i) {
      k[i] = __ldg(as<T>(run.input[i].data) + basin * run.input[i].b_stride);
      inputs_good = inputs_good && within(k[i], limits.input[i]);
    }
    each_network<Model>([&](auto of) {
      const View& from = run.network[of.number];
      for (int i = 0; i < of.weights; ++i) {
        n[of.first + i] = __ldg(as<T>(from.data) + i * from.t_stride + basin * from.b_stride);
        networks_good = networks_good && within(n[of.first + i], -1e30, 1e30);
      }
    });
#pragma unroll
    for (int i = 0; i < P; ++i) p[i] = taken(read(i, 0), i);
    prepare();
  }

  // What a step is given; `first` is room for the first ordinates.
  __device__ __forceinline__ Given<T> with(const T* f, const T* first) {
    return {f, k, p, d, first, limits.dt, noted(beyond), n};
  }
  static __device__ __forceinline__ T* noted(T& beyond) { return Model::LOOPS ? &beyond : nullptr; }
  __device__ __forceinline__ void prepare() {
    if constexpr (PREPARES) {
      Apart<Model, T> apart(k, p, d);
      if constexpr (D > 0) Model::prepare(apart.with(limits.dt, noted(apart.beyond)), apart.d);
      if constexpr (W > 0) Model::ordinates(apart.with(limits.dt, noted(apart.beyond)), w);
      copy<D>(d, apart.d);
      if constexpr (Model::LOOPS) beyond = max(beyond, apart.beyond);
    }
  }
  // From the cotangents of what was prepared those of the parameters, for a clean start of the step before.
  __device__ __forceinline__ void adj_prepare(T* d_p, T* d_d, T* d_w) const {
    const Apart<Model, T> apart(k, p, d);
    Apart<Model, T> d_apart(k, d_p, d_d);
    const Cotangents<T> to{nullptr, d_apart.p, d_apart.d, nullptr};
    if constexpr (W > 0) Model::ordinates_adj(apart.with(limits.dt), d_w, to);
    if constexpr (D > 0) Model::prepare_adj(apart.with(limits.dt), to);
    copy<P>(d_p, d_apart.p);
#pragma unroll
    for (int i = 0; i < D; ++i) d_d[i] = 0;
    for (int i = 0; i < W; ++i) d_w[i] = 0;
  }
  __device__ __forceinline__ void load_lines(const T* rows) {  // behind the states of a state tensor or checkpoint
    for (int i = 0; i < M; ++i) m[i] = rows[(S + i) * n_cells + index];
  }
  // One step with the delay lines moved on. The first states of the lines, behind those of s, are filled in before.
  __device__ __forceinline__ void step(const T* f, T* s, T* q, typename Model::template Kept<T>& kept) {
    T first[N::some(LINES)];
    heads<Model>(m, w, s + S, first);
    Model::step(with(f, first), s, q, kept);
    move_lines<Model>(m, w, s + S, nullptr);
  }

  __device__ __forceinline__ T read(int i, int t) const {
    int64_t basin = this->basin, component = this->component;
    if constexpr (MOVING) hide(t), hide(basin), hide(component);
    const View& v = run.parameter[i];
    return __ldg(as<T>(v.data) + t * v.t_stride + basin * v.b_stride + component * v.c_stride);
  }
  // A parameter as the step takes it, from the value given; and back, the gradient of the value given.
  __device__ __forceinline__ T taken(T given, int i) const {
    return is_raw(run) ? ranged(given, limits.range[i]) : given;
  }
  __device__ __forceinline__ T d_given(T d, int i, int t) const {
    return is_raw(run) ? adj_ranged(read(i, t), limits.range[i], d) : d;
  }

  __device__ __forceinline__ void read_ahead(int t) {
    if constexpr (MOVING) {
#pragma unroll
      for (int i = 0; i < P; ++i)
        if (is_per_step(run, i)) given[i] = read(i, t);
    }
  }
  // Takes the per-step parameters that were read, then reads those of step `next`.
  __device__ __forceinline__ void move(int next) {
    if constexpr (MOVING) {
#pragma unroll
      for (int i = 0; i < P; ++i)
        if (is_per_step(run, i)) p[i] = taken(given[i], i);
      if constexpr (PREPARES) prepare();
      read_ahead(next);
    }
  }
  __device__ __forceinline__ bool parameters_within(bool per_step) const {
    bool good = true;
#pragma unroll
    for (int i = 0; i < P; ++i)
      if (is_per_step(run, i) == per_step) good = good && within(p[i], limits.parameter[i]);
    return good;
  }
};

// The forcing of n_steps steps from `start` on, forward (WAY 1) or back (WAY -1), read two steps before it is wanted.
template <class Model, class T, int WAY> struct Forcing {
  static constexpr int F = Model::F;

  const Run& run;
  const T* row[F];
  T now[F], next[F], after_next[F];
  int left;  // steps not yet read

  __device__ __forceinline__ Forcing(const Run& run, int64_t basin, int start, int n_steps)
      : run(run), left(n_steps - 1) {
#pragma unroll
    for (int i = 0; i < F; ++i) {
      row[i] = as<T>(run.forcing[i].data) + start * run.forcing[i].t_stride + basin * run.forcing[i].b_stride;
      now[i] = next[i] = after_next[i] = __ldg(row[i]);
    }
    read(next);
  }
  __device__ __forceinline__ void read(T* into) {
    if (left <= 0) return;
    --left;
#pragma unroll
    for (int i = 0; i < F; ++i) into[i] = __ldg(row[i] += WAY * run.forcing[i].t_stride);
  }
  __device__ __forceinline__ void read_ahead() { read(after_next); }
  __device__ __forceinline__ void advance() {
#pragma unroll
    for (int i = 0; i < F; ++i) now[i] = next[i], next[i] = after_next[i];
  }
};

// OUTFLOW_ONLY: what leaves the catchment is the one output, which is what most runs ask for, and the code for all the others falls
// away.
template <class Model, class T, bool OUTFLOW_ONLY, bool MOVING>
__global__ void __launch_bounds__(WARP) forward_kernel(const __grid_constant__ Run run,
                                                       const __grid_constant__ Limits<Model, T> limits) {
  using N = Counts<Model>;
  constexpr int F = Model::F, S = Model::S, Q = Model::Q, ROWS = N::ROWS;
  Cell<Model, T, MOVING> cell(run, limits, blockIdx.x);
  const int n_steps = int(run.n_steps);

  T s[N::HEADS];
  int bad_state = ROWS;  // the first row out of bounds; ROWS: none
#pragma unroll
  for (int i = 0; i < S; ++i) {
    s[i] = as<T>(run.initial_state)[i * cell.n_cells + cell.index];
    if (bad_state == ROWS && !within(s[i], limits.state[i])) bad_state = i;
  }
  cell.load_lines(as<T>(run.initial_state));
  for (int i = 0; i < N::M; ++i)
    if (bad_state == ROWS && !within(cell.m[i], -1e30, 1e30)) bad_state = S + i;
  const bool weight_good = within(cell.weight, -1e30, 1e30) && cell.networks_good;
  // The step of the first fault; n_steps: none.
  int bad_forcing = cell.inputs_good ? n_steps : 0, bad_parameter = cell.parameters_within(false) ? n_steps : 0;
  int bad_passes = n_steps;
  bool good = bad_state == ROWS && weight_good && bad_parameter == n_steps && cell.inputs_good;

  const int64_t row = has_each(run) ? cell.n_cells : cell.n_columns;
  const bool writes = has_each(run) ? cell.used : cell.first;
  T* out = as<T>(run.fluxes) + (has_each(run) ? cell.index : cell.column);
  T* checkpoint = as<T>(run.checkpoints) + cell.index;
  int next_checkpoint = run.interval ? 0 : -1;
  const T nan = from_bits<T>(as_bits(T(0)) - 1);  // all bits set
  // Of a cell that met a value out of bounds nothing can be taken for a result.
  auto put = [&](int place, T value) {
    if (!good) value = nan;
    if (!has_each(run)) value = over_components(cell.used ? cell.weight * value : T(0), width_of(run));
    if (writes) out[place * (n_steps * row)] = value;
  };

  Forcing<Model, T, 1> forcing(run, cell.basin, 0, n_steps);
  cell.read_ahead(0);
  for (int t = 0; t < n_steps; ++t, out += row) {
    if (t == next_checkpoint) {
#pragma unroll
      for (int i = 0; i < S; ++i, checkpoint += cell.n_cells)
        if (cell.used) *checkpoint = s[i];
      for (int i = 0; i < N::M; ++i, checkpoint += cell.n_cells)
        if (cell.used) *checkpoint = cell.m[i];
      next_checkpoint += int(run.interval);
    }
    forcing.read_ahead();
    cell.move(t + 1 < n_steps ? t + 1 : t);
    bool forcing_good = true;
#pragma unroll
    for (int i = 0; i < F; ++i) forcing_good = forcing_good && within(forcing.now[i], limits.forcing[i]);
    if (!forcing_good && bad_forcing == n_steps) bad_forcing = t;
    good = good && forcing_good;
    if constexpr (MOVING) {
      const bool parameters_good = cell.parameters_within(true);
      if (!parameters_good && bad_parameter == n_steps) bad_parameter = t;
      good = good && parameters_good;
    }

    T q[Q];
    typename Model::template Kept<T> kept;
    cell.step(forcing.now, s, q, kept);
    if constexpr (Model::LOOPS) {
      if (cell.beyond != 0 && bad_passes == n_steps) bad_passes = t;
      good = good && cell.beyond == 0;
    }
    if constexpr (OUTFLOW_ONLY) {
      put(0, q[Model::OUTFLOW]);
    } else {
#pragma unroll
      for (int i = 0; i < Q + S; ++i)
        if (slot_of(run, i) >= 0) put(slot_of(run, i), i < Q ? q[i < Q ? i : 0] : s[i < Q ? 0 : i - Q]);
    }
    forcing.advance();
  }

  if (cell.used && run.final_state) {
#pragma unroll
    for (int i = 0; i < S; ++i) as<T>(run.final_state)[i * cell.n_cells + cell.index] = good ? s[i] : nan;
    for (int i = 0; i < N::M; ++i)
      as<T>(run.final_state)[(S + i) * cell.n_cells + cell.index] = good ? cell.m[i] : nan;
  }
  if (!run.faults) return;
  note(run.faults, cell.used && bad_forcing < n_steps, bad_forcing * cell.n_cells + cell.index);
  note(run.faults + 1, cell.used && bad_parameter < n_steps, bad_parameter * cell.n_cells + cell.index);
  note(run.faults + 2, cell.used && bad_state < ROWS, bad_state * cell.n_cells + cell.index);
  note(run.faults + 3, cell.used && !weight_good, cell.index);
  if constexpr (Model::LOOPS)
    note(run.faults + 4, cell.used && bad_passes < n_steps, bad_passes * cell.n_cells + cell.index);
}

// Reverses one block of cells. `tape` is this lane's: tape[(k HEADS + i) WARP] is state i before a segment's
// k-th step, and behind the states are the delay lines' heads.
template <class Model, class T, bool OUTFLOW_ONLY, bool MOVING, bool FORCING>
__device__ __forceinline__ void reverse(const Run& run, const Limits<Model, T>& limits, int64_t block, T* tape) {
  using N = Counts<Model>;
  constexpr int F = Model::F, P = Model::P, D = Model::D, S = Model::S, Q = Model::Q, W = N::W, M = N::M;
  constexpr int HEADS = N::HEADS, LINES = Model::LINES;
  constexpr bool PREPARES = D + W > 0;
  Cell<Model, T, MOVING> cell(run, limits, block);
  const int n_steps = int(run.n_steps), interval = int(run.interval);

  T d_s[HEADS], d_p[P], d_d[N::some(D)], d_weight = 0;
  T d_w[N::some(W)], d_m[N::some(M)], d_n[N::some(Model::WEIGHTS)];
  for (int i = 0; i < Model::WEIGHTS; ++i) d_n[i] = 0;
#pragma unroll
  for (int i = 0; i < D; ++i) d_d[i] = 0;
  for (int i = 0; i < W; ++i) d_w[i] = 0;
  for (int i = 0; i < M; ++i)
    d_m[i] = run.d_final_state ? as<T>(run.d_final_state)[(S + i) * cell.n_cells + cell.index] : T(0);
#pragma unroll
  for (int i = 0; i < P; ++i) d_p[i] = 0;
#pragma unroll
  for (int i = 0; i < S; ++i) d_s[i] = run.d_final_state ? as<T>(run.d_final_state)[i * cell.n_cells + cell.index] : T(0);
  // The row of the step at hand. The outflow's cotangent is read a step before it is wanted.
  const T* d_row = as<T>(run.d_fluxes.data) + (n_steps - 1) * run.d_fluxes.t_stride + cell.basin * run.d_fluxes.b_stride +
                   (has_each(run) ? cell.component * run.d_fluxes.c_stride : 0);
  T d_outflow = OUTFLOW_ONLY ? __ldg(d_row) : T(0);

  for (int start = (n_steps - 1) / interval * interval; start >= 0; start -= interval) {
    const int end = interval < n_steps - start ? start + interval : n_steps;
    T s[HEADS], first[N::some(LINES)];
    const T* checkpoint = as<T>(run.checkpoints) + int64_t(start / interval) * N::ROWS * cell.n_cells;
#pragma unroll
    for (int i = 0; i < S; ++i) s[i] = checkpoint[i * cell.n_cells + cell.index];
    cell.load_lines(checkpoint);
    {
      Forcing<Model, T, 1> forcing(run, cell.basin, start, end - start);
      cell.read_ahead(start);
      for (int t = start; t < end - 1; ++t) {
        forcing.read_ahead();
        cell.move(t + 1);
        heads<Model>(cell.m, cell.w, s + S, first);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) tape[((t - start) * HEADS + i) * WARP] = s[i];
        T q[Q];
        typename Model::template Kept<T> kept;
        cell.step(forcing.now, s, q, kept);
        forcing.advance();
      }
      heads<Model>(cell.m, cell.w, s + S, first);
    }
    // s is the state before the last step of the segment; the tape holds those before the others.
    Forcing<Model, T, -1> forcing(run, cell.basin, end - 1, end - start);
    cell.read_ahead(end - 1);
    for (int t = end - 1; t >= start; --t) {
      T s_before[HEADS];
#pragma unroll
      for (int i = 0; i < HEADS; ++i) s_before[i] = t > start ? tape[((t - 1 - start) * HEADS + i) * WARP] : T(0);
      const T d_outflow_now = d_outflow;
      if (OUTFLOW_ONLY && t > 0) d_outflow = __ldg(d_row - run.d_fluxes.t_stride);
      forcing.read_ahead();
      cell.move(t > 0 ? t - 1 : 0);

      T sT[HEADS], q[Q], d_q[Q], d_f[F], d_first[N::some(LINES)];
#pragma unroll
      for (int i = 0; i < HEADS; ++i) sT[i] = s[i];
#pragma unroll
      for (int l = 0; l < LINES; ++l) d_first[l] = 0;
      first_ordinates<Model>(cell.w, first);
#pragma unroll
      for (int i = 0; i < Q; ++i) d_q[i] = 0;
#pragma unroll
      for (int i = 0; i < F; ++i) d_f[i] = 0;
      typename Model::template Kept<T> kept;
      Model::step(cell.with(forcing.now, first), sT, q, kept);
      if constexpr (OUTFLOW_ONLY) {
        d_q[Model::OUTFLOW] = has_each(run) ? d_outflow_now : cell.weight * d_outflow_now;
      } else {
#pragma unroll
        for (int i = 0; i < Q + S; ++i) {
          if (slot_of(run, i) < 0) continue;
          T d = __ldg(d_row + slot_of(run, i) * run.d_fluxes_stride);
          if (!has_each(run)) {
            if (run.d_weights) d_weight = fma(d, i < Q ? q[i < Q ? i : 0] : sT[i < Q ? 0 : i - Q], d_weight);
            d = cell.weight * d;
          }
          if (i < Q) d_q[i < Q ? i : 0] += d;
          else d_s[i < Q ? 0 : i - Q] += d;
        }
      }
      adj_put<Model>([&](auto line) { return d_m + line.content; }, cell.w, sT + S, d_s + S, d_w, nullptr);
      Model::step_adj(cell.with(forcing.now, first), s, kept, d_q, d_s, Cotangents<T>{d_f, d_p, d_d, d_first, d_n});
      adj_move<Model>(d_m, d_w, d_s + S, d_first);
      if constexpr (MOVING && PREPARES) cell.adj_prepare(d_p, d_d, d_w);

      if constexpr (FORCING) {
#pragma unroll
        for (int i = 0; i < F; ++i)
          if (run.d_forcing[i]) {
            const T sum = over_components(cell.used ? d_f[i] : T(0), width_of(run));
            if (cell.first) as<T>(run.d_forcing[i])[t * cell.n_columns + cell.column] = sum;
          }
      }
      if constexpr (MOVING) {  // a per-step parameter's gradient, then a clean start for the step before
        int now = t;
        hide(now);
        const int64_t row = now * cell.n_cells + cell.index, row_of_sums = now * cell.n_columns + cell.column;
#pragma unroll
        for (int i = 0; i < P; ++i) {
          if (!is_per_step(run, i)) continue;
          if (run.d_parameter[i]) {
            const T d = cell.d_given(d_p[i], i, t);
            if (run.by_group[i]) {
              const T sum = over_components(cell.used ? d : T(0), width_of(run));
              if (cell.first) as<T>(run.d_parameter[i])[row_of_sums] = sum;
            } else if (cell.used) {
              as<T>(run.d_parameter[i])[row] = d;
            }
          }
          d_p[i] = 0;
        }
      }
#pragma unroll
      for (int i = 0; i < HEADS; ++i) s[i] = s_before[i];
      d_row -= run.d_fluxes.t_stride;
      forcing.advance();
    }
  }

  if constexpr (!MOVING && PREPARES) cell.adj_prepare(d_p, d_d, d_w);
  each_network<Model>([&](auto of) {
    T* const to = as<T>(run.d_network[of.number]);
    for (int i = 0; to && i < of.weights; ++i) {
      const T sum = over_components(cell.used ? d_n[of.first + i] : T(0), width_of(run));
      if (cell.first) to[cell.column * of.weights + i] = sum;
    }
  });
  if (!cell.used) return;
#pragma unroll
  for (int i = 0; i < P; ++i)
    if (run.d_parameter[i] && !is_per_step(run, i)) as<T>(run.d_parameter[i])[cell.index] = cell.d_given(d_p[i], i, 0);
  if (run.d_initial_state) {
#pragma unroll
    for (int i = 0; i < S; ++i) as<T>(run.d_initial_state)[i * cell.n_cells + cell.index] = d_s[i];
    for (int i = 0; i < M; ++i) as<T>(run.d_initial_state)[(S + i) * cell.n_cells + cell.index] = d_m[i];
  }
  if (run.d_weights) as<T>(run.d_weights)[cell.index] = d_weight;
}

extern __shared__ double on_chip[];

// Twelve blocks a multiprocessor leave 168 registers to a thread: HBV in float needs no more. In double it takes all 255
// that there are.
template <class Model, class T, bool OUTFLOW_ONLY, bool MOVING, bool FORCING>
__global__ void __launch_bounds__(WARP, sizeof(T) == 4 ? 12 : 8)
    adjoint_kernel(const __grid_constant__ Run run, const __grid_constant__ Limits<Model, T> limits, int64_t n_blocks, int64_t tape_length) {
  T* tape = run.tape ? as<T>(run.tape) + blockIdx.x * tape_length : reinterpret_cast<T*>(on_chip);
  for (int64_t block = blockIdx.x; block < n_blocks; block += gridDim.x)
    reverse<Model, T, OUTFLOW_ONLY, MOVING, FORCING>(run, limits, block, tape + threadIdx.x);
}

// The sums of x [rows, n, columns] over its middle axis, in order.
template <class T>
__global__ void sum_middle_kernel(const T* x, T* y, int64_t rows, int64_t n, int64_t columns) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * columns) return;
  x += i / columns * n * columns + i % columns;
  T sum = 0;
  for (int64_t k = 0; k < n; ++k) sum += x[k * columns];
  y[i] = sum;
}

}  // namespace HS_ISA
}  // namespace hs
