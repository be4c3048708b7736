// A model's kernels on a stream, by nvcc's runtime, as core/cuda.h offers them.
#pragma once

#include "cuda.h"
#include "tangent.cuh"

namespace hs {
namespace HS_ISA {

template <class... A>
cudaError_t launch(void (*kernel)(A...), int64_t blocks, int threads, int64_t shared, cudaStream_t stream, A... a) {
  if (blocks < 1 || blocks > INT32_MAX) return cudaErrorInvalidValue;
  void* arguments[] = {&a...};
  const cudaError_t error =
      cudaLaunchKernel(kernel, dim3(unsigned(blocks)), dim3(unsigned(threads)), arguments, size_t(shared), stream);
  cudaGetLastError();  // the error is returned: the next caller must not find it again
  return error;
}

template <class Model, class T> struct Launch {
  static constexpr Shape SHAPE{Model::F, Model::K, Model::P, Model::S, Model::OUTFLOW, Counts<Model>::HEADS};

  static int64_t tape_size(const Run& run) {
    const Tapes tapes(prepared(run), SHAPE, sizeof(T));
    return tapes.n * tapes.length;
  }

  static cudaError_t forward(const Run& given, cudaStream_t stream) {
    const Run run = prepared(given);
    const bool moving = is_moving(run, SHAPE);
    auto kernel = outflow_only(run, SHAPE)
                      ? (moving ? forward_kernel<Model, T, true, true> : forward_kernel<Model, T, true, false>)
                      : (moving ? forward_kernel<Model, T, false, true> : forward_kernel<Model, T, false, false>);
    return launch(kernel, n_blocks(run), WARP, 0, stream, run, Limits<Model, T>(run));
  }

  template <bool OUTFLOW_ONLY, bool FORCING> static auto adjoint_of(bool moving) {
    return moving ? adjoint_kernel<Model, T, OUTFLOW_ONLY, true, FORCING>
                  : adjoint_kernel<Model, T, OUTFLOW_ONLY, false, FORCING>;
  }
  static cudaError_t adjoint(const Run& given, cudaStream_t stream) {
    Run run = prepared(given);
    const bool moving = is_moving(run, SHAPE);
    auto kernel = !outflow_only(run, SHAPE)    ? adjoint_of<false, true>(moving)
                  : wants_forcing(run, SHAPE) ? adjoint_of<true, true>(moving)
                                              : adjoint_of<true, false>(moving);
    const Tapes tapes(run, SHAPE, sizeof(T));
    if (tapes.n && !run.tape) return cudaErrorInvalidValue;
    if (!tapes.n) run.tape = nullptr;
    const int64_t shared = tapes.n ? 0 : tapes.length * int64_t(sizeof(T));
    return launch(kernel, tapes.n ? tapes.n : n_blocks(run), WARP, shared, stream, run, Limits<Model, T>(run),
                  n_blocks(run), tapes.length);
  }

  static cudaError_t tangent(const Tangent& given, cudaStream_t stream) {
    const Tangent in = prepared(given);
    return launch(tangent_kernel<Model, T>, n_blocks(in), WARP, 0, stream, in, Limits<Model, T>(in));
  }
  static cudaError_t least_squares(const LeastSquares& in, cudaStream_t stream) {
    return launch(least_squares_kernel<Model, T>, least_squares_blocks(in, SHAPE), WARP, 0, stream, in,
                  Limits<Model, T>(in));
  }
};

}  // namespace HS_ISA
}  // namespace hs
