// The unit hydrograph (unit_hydrograph.h) on a GPU: a thread takes one series over a chunk of its steps, neighbouring
// threads neighbouring series. The ordinates are made anew for every chunk; each of its inflows is read once.
//
// The ordinates' cotangents are sums over all steps: every chunk writes its part, and a second kernel adds the parts in
// order. Chunks have a fixed length, so that the order depends on T alone.
#pragma once

#include "../core/cuda.cuh"
#include "../core/cuda.h"
#include "unit_hydrograph.h"

namespace hs {
namespace HS_ISA {

template <class T> struct Route {
  static constexpr int LENGTH = UNIT_HYDROGRAPH_LENGTH, MEMORY = LENGTH - 1;
  static constexpr int TILE = 16, CHUNK = UNIT_HYDROGRAPH_CHUNK;  // steps; a tile's are computed from registers
  static constexpr int THREADS = 64;

  const Convolution<T>& c;
  int64_t n, chunk;  // the series and chunk of this thread
  T a, b, w[LENGTH];

  __device__ __forceinline__ explicit Route(const Convolution<T>& c) : c(c) {
    const int64_t blocks = (c.n_series + THREADS - 1) / THREADS;
    n = blockIdx.x % blocks * THREADS + threadIdx.x;
    chunk = blockIdx.x / blocks;
    if (n >= c.n_series) return;
    a = c.a[n], b = c.b[n];
    ordinates(a, b, w);
  }

  __device__ __forceinline__ T inflow(int64_t t) const {
    if (t < 0) return t < -MEMORY ? T(0) : __ldg(c.memory + (t + MEMORY) * c.n_series + n);
    return t < c.n_steps ? __ldg(c.inflow + t * c.n_series + n) : T(0);
  }
  __device__ __forceinline__ T d_outflow(int64_t t) const {
    return t >= 0 && t < c.n_steps ? __ldg(c.d_outflow + t * c.n_series + n) : T(0);
  }

  __device__ __forceinline__ void forward() const {
    if (n >= c.n_series) return;
    const int64_t start = chunk * CHUNK;
    T q[MEMORY + TILE];  // of the steps from t - MEMORY on
#pragma unroll
    for (int j = 0; j < MEMORY; ++j) q[j] = inflow(start - MEMORY + j);
#pragma unroll 1
    for (int64_t t = start; t < start + CHUNK && t < c.n_steps; t += TILE) {
#pragma unroll
      for (int i = 0; i < TILE; ++i) q[MEMORY + i] = inflow(t + i);
#pragma unroll
      for (int i = 0; i < TILE; ++i) {
        T sum = 0;
#pragma unroll
        for (int k = 0; k < LENGTH; ++k) sum = fma(w[k], q[MEMORY + i - k], sum);
        if (t + i < c.n_steps) c.outflow[(t + i) * c.n_series + n] = sum;
      }
#pragma unroll
      for (int j = 0; j < MEMORY; ++j) q[j] = q[j + TILE];
    }
  }

  // The derivative along a direction, into the outflow's place.
  __device__ __forceinline__ void tangent() const {
    if (n >= c.n_series) return;
    using D = Dual<T, 1>;
    D w[LENGTH];
    ordinates(D{a, {c.t_a[n]}}, D{b, {c.t_b[n]}}, w);
    for (int64_t t = chunk * CHUNK; t < (chunk + 1) * CHUNK && t < c.n_steps; ++t) {
      D sum{};
#pragma unroll
      for (int k = 0; k < LENGTH; ++k) {
        const T* d = t < k ? c.t_memory + (t - k + MEMORY) * c.n_series : c.t_inflow + (t - k) * c.n_series;
        sum = fma(w[k], D{inflow(t - k), {__ldg(d + n)}}, sum);
      }
      c.outflow[t * c.n_series + n] = sum.d[0];
    }
  }

  // Steps from the memory's first on.
  __device__ __forceinline__ void adjoint() const {
    if (n >= c.n_series) return;
    const int64_t start = chunk * CHUNK - MEMORY;
    T d[TILE + MEMORY], d_w[LENGTH];  // d: the outflows' cotangents of the steps from t on
#pragma unroll
    for (int k = 0; k < LENGTH; ++k) d_w[k] = 0;
#pragma unroll
    for (int j = 0; j < MEMORY; ++j) d[j] = d_outflow(start + j);
#pragma unroll 1
    for (int64_t t = start; t < start + CHUNK && t < c.n_steps; t += TILE) {
#pragma unroll
      for (int i = 0; i < TILE; ++i) d[MEMORY + i] = d_outflow(t + MEMORY + i);
#pragma unroll
      for (int i = 0; i < TILE; ++i) {
        const T q = inflow(t + i);
        T sum = 0;
#pragma unroll
        for (int k = 0; k < LENGTH; ++k) {
          sum = fma(w[k], d[i + k], sum);
          d_w[k] = fma(q, d[i + k], d_w[k]);
        }
        if (t + i < 0) c.d_memory[(t + i + MEMORY) * c.n_series + n] = sum;
        else if (t + i < c.n_steps) c.d_inflow[(t + i) * c.n_series + n] = sum;
      }
#pragma unroll
      for (int j = 0; j < MEMORY; ++j) d[j] = d[j + TILE];
    }
#pragma unroll
    for (int k = 0; k < LENGTH; ++k) c.parts[(chunk * LENGTH + k) * c.n_series + n] = d_w[k];
  }

  __device__ __forceinline__ void adjoint_of_ordinates(int64_t n_chunks) const {
    if (n >= c.n_series) return;
    T d_w[LENGTH];
#pragma unroll
    for (int k = 0; k < LENGTH; ++k) d_w[k] = 0;
    for (int64_t i = 0; i < n_chunks; ++i)
#pragma unroll
      for (int k = 0; k < LENGTH; ++k) d_w[k] += c.parts[(i * LENGTH + k) * c.n_series + n];
    adj_ordinates(a, b, w, d_w, c.d_a[n], c.d_b[n]);
  }
};

template <class T> __global__ void route_kernel(const __grid_constant__ Convolution<T> c) { Route<T>(c).forward(); }
template <class T> __global__ void tangent_route_kernel(const __grid_constant__ Convolution<T> c) {
  Route<T>(c).tangent();
}
template <class T> __global__ void adj_route_kernel(const __grid_constant__ Convolution<T> c) {
  Route<T>(c).adjoint();
}
template <class T>
__global__ void adj_ordinates_kernel(const __grid_constant__ Convolution<T> c, int64_t n_chunks) {
  Route<T>(c).adjoint_of_ordinates(n_chunks);
}

template <class T> cudaError_t convolve(const Convolution<T>& c, cudaStream_t stream) {
  using R = Route<T>;
  const int64_t blocks = (c.n_series + R::THREADS - 1) / R::THREADS;
  const auto kernel = c.t_inflow ? tangent_route_kernel<T> : route_kernel<T>;
  return launch(kernel, blocks * unit_hydrograph_chunks(c.n_steps), R::THREADS, 0, stream, c);
}
template <class T> cudaError_t adj_convolve(const Convolution<T>& c, cudaStream_t stream) {
  using R = Route<T>;
  const int64_t blocks = (c.n_series + R::THREADS - 1) / R::THREADS;
  const int64_t n_chunks = unit_hydrograph_chunks(c.n_steps + R::MEMORY);
  const cudaError_t error = launch(adj_route_kernel<T>, blocks * n_chunks, R::THREADS, 0, stream, c);
  if (error != cudaSuccess) return error;
  return launch(adj_ordinates_kernel<T>, blocks, R::THREADS, 0, stream, c, n_chunks);
}

}  // namespace HS_ISA
}  // namespace hs
