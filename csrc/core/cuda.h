// What the GPU's object files offer to the binding: plain functions that launch kernels on a stream. Nothing here
// allocates or waits, so that every call can be captured in a CUDA graph.
#pragma once

#include <cuda_runtime.h>

#include "../routing/network.h"
#include "../routing/convolve.h"
#include "table.h"

namespace hs {

struct CudaModel {
  const char* name;
  Names names;
  cudaError_t (*forward)(const Run&, cudaStream_t);
  cudaError_t (*adjoint)(const Run&, cudaStream_t);
  cudaError_t (*tangent)(const Tangent&, cudaStream_t);
  cudaError_t (*least_squares)(const LeastSquares&, cudaStream_t);
  int64_t (*tape_size)(const Run&);  // values of memory that the adjoint needs; 0 where the chip's own suffices
};

template <class T> struct CudaScheme {
  const char* name;
  cudaError_t (*run)(const Reaches<T>&, bool reverse, cudaStream_t);  // all ticks
  int64_t (*scratch_rows)(const Reaches<T>&, bool reverse);  // values that Reaches::scratch has a reach
};

template <class T> struct CudaKernels {
  cudaError_t (*convolve)(const Convolution<T>&, bool reverse, cudaStream_t);
  cudaError_t (*sum_middle)(const T* from, T* into, int64_t rows, int64_t n, int64_t columns, cudaStream_t);
  CudaScheme<T> schemes[3];
};

// One object file for each type of number: setup.py compiles routing_cuda.cu twice.
template <class T> const CudaKernels<T>& cuda_kernels();
template <> const CudaKernels<float>& cuda_kernels<float>();
template <> const CudaKernels<double>& cuda_kernels<double>();

}  // namespace hs
