// What differs between the compilers that read the model headers: a host C++ compiler (once per instruction set) and,
// for the GPU, nvcc or NVRTC. A model header uses these names and nothing of any compiler.
#pragma once

#if defined(__CUDACC_RTC__)  // NVRTC, which finds no header but ours
using int8_t = signed char;
using int32_t = int;
using uint32_t = unsigned;
using int64_t = long;
using uint64_t = unsigned long;
using uintptr_t = unsigned long;
#define INT32_MAX 2147483647
#define __builtin_memcpy memcpy
#else
#include <stdint.h>  // not <cstdint>: no std names in files that are compiled for several instruction sets
#endif

// HS_CUDA: a thread is one cell and a value one number. HS_CUDA_ON_CPU says that a host compiler reads the GPU's
// sources, to run them where there is no GPU (tests/cuda_on_cpu).
#if defined(__CUDACC__) || defined(HS_CUDA_ON_CPU)
#define HS_CUDA
#endif

#if defined(__CUDACC__)
#define HS_FN __host__ __device__ __forceinline__
#define HS_APART __host__ __device__ __noinline__
#else
#define HS_FN inline __attribute__((always_inline))
#define HS_APART __attribute__((noinline))  // of what runs once, and is called at several places
#endif

// Every instruction set's code lives in a namespace of its own. Shared names would be merged by the linker, which keeps
// one copy, and that copy might use instructions that the processor at hand lacks.
#ifndef HS_ISA
#define HS_ISA baseline
#endif
