// A stand-in for CUDA's own header, as much as csrc/ uses: a host compiler that finds this one reads the GPU's sources
// as plain C++, and their kernels run on the host's memory, where tests can look.
//
// The threads of a block are fibers, each with a stack of its own. One runs until it waits for others, in a shuffle or
// a vote of its warp, then the next one does. A block's own memory is full of NaN before it starts, and what lies
// behind its end must still be so afterwards. A warp whose lanes wait at different places is an error, not a deadlock.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

typedef struct CUstream_st* cudaStream_t;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorIllegalAddress, cudaErrorLaunchFailure };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };

// One GPU of compute capability 8.6 with a driver of this very runtime; the environment variables CUDA_ON_CPU_GPUS,
// CUDA_ON_CPU_CAPABILITY and CUDA_ON_CPU_DRIVER say otherwise.
cudaError_t cudaGetDevice(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int device);
cudaError_t cudaDriverGetVersion(int*);
cudaError_t cudaRuntimeGetVersion(int*);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t);

namespace on_cpu {

cudaError_t run(dim3 blocks, dim3 threads, size_t shared, void (*thread)(void*), void* argument);
// Whether launches are written down, and not made: as tests/cuda_stub/libcuda.c writes them, which stands beside this.
bool records();
void record(const void* kernel, dim3 blocks, dim3 threads, size_t shared, cudaStream_t stream, void** arguments,
            const size_t* sizes, int n);
// Gives a value to the other lanes of the warp, and waits until all have given theirs: [lane].
const uint64_t* exchange(uint64_t mine);

template <class T> uint64_t bits(T x) {
  uint64_t b = 0;
  __builtin_memcpy(&b, &x, sizeof x);
  return b;
}
template <class T> T value(uint64_t b) {
  T x;
  __builtin_memcpy(&x, &b, sizeof x);
  return x;
}

template <class... A, size_t... I>
cudaError_t launch(void (*kernel)(A...), dim3 blocks, dim3 threads, void** a, size_t shared,
                   std::index_sequence<I...>) {
  auto thread = [=] { kernel(*static_cast<A*>(a[I])...); };
  using Thread = decltype(thread);
  return run(blocks, threads, shared, [](void* t) { (*static_cast<Thread*>(t))(); }, &thread);
}

}  // namespace on_cpu

template <class... A>
cudaError_t cudaLaunchKernel(void (*kernel)(A...), dim3 blocks, dim3 threads, void** arguments, size_t shared,
                             cudaStream_t stream) {
  if (on_cpu::records()) {
    const size_t sizes[] = {sizeof(A)...};
    on_cpu::record(reinterpret_cast<const void*>(kernel), blocks, threads, shared, stream, arguments, sizes, sizeof...(A));
    return cudaSuccess;
  }
  return on_cpu::launch(kernel, blocks, threads, arguments, shared, std::index_sequence_for<A...>());
}

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __shfl_xor_sync(unsigned, T x, int lanes) {
  return on_cpu::value<T>(on_cpu::exchange(on_cpu::bits(x))[(threadIdx.x % 32) ^ unsigned(lanes)]);
}
template <class T> T __shfl_sync(unsigned, T x, int from, int width) {
  return on_cpu::value<T>(on_cpu::exchange(on_cpu::bits(x))[threadIdx.x % 32 / unsigned(width) * unsigned(width) + unsigned(from)]);
}
inline int __any_sync(unsigned, int vote) {
  const uint64_t* votes = on_cpu::exchange(vote != 0);
  int any = 0;
  for (int lane = 0; lane < 32; ++lane) any |= int(votes[lane]);
  return any;
}
inline long long atomicMin(long long* p, long long x) {
  const long long before = *p;
  if (x < before) *p = x;
  return before;
}
