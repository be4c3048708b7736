// What an instruction set's object file offers to the binding: plain function pointers, so that nothing compiled for
// AVX2 or AVX-512 runs before the binding has looked at the processor.
#pragma once

#include <stddef.h>

#include "../routing/network.h"
#include "../routing/unit_hydrograph.h"
#include "least_squares.h"
#include "table.h"
#include "tangent.h"

namespace hs {

struct ModelKernels {
  size_t (*workspace)(const Run&);  // bytes of 64-byte-aligned memory that each thread of the adjoint needs
  int64_t (*blocks)(const Run&);
  int (*forward)(const Run&, int64_t block);  // a sum of Faults
  void (*adjoint)(const Run&, int64_t block, void* workspace);
  int64_t (*tangent_blocks)(const Tangent&);
  int (*tangent)(const Tangent&, int64_t block);  // a sum of Faults
  int64_t (*least_squares_tasks)(const LeastSquares&);
  int (*least_squares)(const LeastSquares&, int64_t task);  // a sum of Faults
};

template <class T> struct ConvolutionKernels {
  int span;  // series a block takes
  void (*forward)(const Convolution<T>&, int64_t block);
  void (*adjoint)(const Convolution<T>&, int64_t block);
  void (*tangent)(const Convolution<T>&, int64_t block);
};

template <class T> struct RouteKernels {
  const char* scheme;
  int constants, stores;
  size_t (*workspace)(const Reaches<T>&, bool adjoint);  // bytes that each thread needs
  // A tile of steps; false: all lateral inflows are within bounds. `passed` [tiles] comes as zeros.
  bool (*forward)(const Reaches<T>&, int64_t tile, int64_t* passed, void* workspace);
  void (*adjoint)(const Reaches<T>&, int64_t tile, int64_t* passed, void* workspace);
};
constexpr int N_SCHEMES = 3;

struct Model {
  const char* name;
  Names names;
  ModelKernels kernels[2];  // in float, in double
};

struct Kernels {  // of routing
  const char* isa;
  ConvolutionKernels<float> convolve_f32;
  ConvolutionKernels<double> convolve_f64;
  RouteKernels<float> route_f32[N_SCHEMES];
  RouteKernels<double> route_f64[N_SCHEMES];
};

namespace baseline { extern const Kernels routing_kernels; }
namespace avx2 { extern const Kernels routing_kernels; }
namespace avx512 { extern const Kernels routing_kernels; }

}  // namespace hs
