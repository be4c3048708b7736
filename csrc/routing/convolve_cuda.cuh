// The convolution with a unit hydrograph (convolve.h) on a GPU: a thread takes one series over a chunk of its steps,
// neighbouring threads neighbouring series. A tile's sums stay in registers while the ordinates pass, and with them a
// window of the series that moves by one step for each.
#pragma once

#include "../core/cuda.cuh"
#include "convolve.h"

namespace hs {
namespace HS_ISA {

template <class T> struct SeriesChunk {
  static constexpr int TILE = 16, THREADS = SERIES_THREADS;

  const Convolution<T>& c;
  int64_t n, chunk, start, end;  // the series of this thread, its chunk and the chunk's steps

  __device__ __forceinline__ SeriesChunk(const Convolution<T>& c, int64_t before) : c(c) {
    const int64_t blocks = (c.n_series + THREADS - 1) / THREADS, span = convolution_chunk(c.length);
    n = blockIdx.x % blocks * THREADS + threadIdx.x;
    chunk = blockIdx.x / blocks;
    start = chunk * span - before;
    end = start + span < c.n_steps ? start + span : c.n_steps;
  }

  __device__ __forceinline__ T at(const T* base, int64_t t) const { return __ldg(base + t * c.n_series + n); }
  __device__ __forceinline__ T earlier(const T* series, const T* memory, int64_t t) const {
    if (t >= c.n_steps) return 0;
    return t >= 0 ? at(series, t) : t > -c.length ? at(memory, t + c.length - 1) : T(0);
  }
  __device__ __forceinline__ T d_outflow(int64_t t) const { return t >= 0 && t < c.n_steps ? at(c.d_outflow, t) : T(0); }

  __device__ __forceinline__ void forward() const {
    if (n >= c.n_series) return;
    for (int64_t t = start; t < end; t += TILE) {
      T sum[TILE], q[TILE];  // q: the inflow k steps before each of the tile's
#pragma unroll
      for (int i = 0; i < TILE; ++i) sum[i] = 0, q[i] = earlier(c.inflow, c.memory, t + i);
#pragma unroll 1
      for (int64_t k = 0; k < c.length; ++k) {
        const T w = at(c.ordinates, k);
#pragma unroll
        for (int i = 0; i < TILE; ++i) sum[i] = fma(w, q[i], sum[i]);
#pragma unroll
        for (int i = TILE - 1; i > 0; --i) q[i] = q[i - 1];
        q[0] = earlier(c.inflow, c.memory, t - k - 1);
      }
#pragma unroll
      for (int i = 0; i < TILE; ++i)
        if (t + i < end) c.outflow[(t + i) * c.n_series + n] = sum[i];
    }
  }

  // The derivative along a direction, into the outflow's place.
  __device__ __forceinline__ void tangent() const {
    if (n >= c.n_series) return;
    for (int64_t t = start; t < end; ++t) {
      T sum = 0;
      for (int64_t k = 0; k < c.length; ++k) {
        sum = fma(at(c.t_ordinates, k), earlier(c.inflow, c.memory, t - k), sum);
        sum = fma(at(c.ordinates, k), earlier(c.t_inflow, c.t_memory, t - k), sum);
      }
      c.outflow[t * c.n_series + n] = sum;
    }
  }

  // Steps from the memory's first on.
  __device__ __forceinline__ void adjoint() const {
    if (n >= c.n_series) return;
    T* parts = c.d_ordinates + chunk * c.length * c.n_series + n;
    for (int64_t k = 0; k < c.length; ++k) parts[k * c.n_series] = 0;
    for (int64_t t = start; t < end; t += TILE) {
      T sum[TILE], q[TILE], d[TILE];  // d: the outflow's cotangent k steps after each of the tile's
#pragma unroll
      for (int i = 0; i < TILE; ++i) {
        sum[i] = 0;
        q[i] = t + i < end ? earlier(c.inflow, c.memory, t + i) : T(0);
        d[i] = d_outflow(t + i);
      }
#pragma unroll 1
      for (int64_t k = 0; k < c.length; ++k) {
        const T w = at(c.ordinates, k);
        T part = parts[k * c.n_series];
#pragma unroll
        for (int i = 0; i < TILE; ++i) sum[i] = fma(w, d[i], sum[i]), part = fma(q[i], d[i], part);
        parts[k * c.n_series] = part;
#pragma unroll
        for (int i = 0; i < TILE - 1; ++i) d[i] = d[i + 1];
        d[TILE - 1] = d_outflow(t + TILE + k);
      }
#pragma unroll
      for (int i = 0; i < TILE; ++i) {
        if (t + i >= end) continue;
        T* to = t + i < 0 ? c.d_memory + (t + i + c.length - 1) * c.n_series : c.d_inflow + (t + i) * c.n_series;
        to[n] = sum[i];
      }
    }
  }
};

template <class T> __global__ void convolve_kernel(const __grid_constant__ Convolution<T> c) {
  SeriesChunk<T>(c, 0).forward();
}
template <class T> __global__ void tangent_convolve_kernel(const __grid_constant__ Convolution<T> c) {
  SeriesChunk<T>(c, 0).tangent();
}
template <class T> __global__ void adj_convolve_kernel(const __grid_constant__ Convolution<T> c) {
  SeriesChunk<T>(c, c.length - 1).adjoint();
}

}  // namespace HS_ISA
}  // namespace hs
