// The GPU kernels of routing and of sums for one type of number: compiled with HS_VALUE=float and with HS_VALUE=double.
#include "core/launch.cuh"
#include "routing/network_cuda.cuh"
#include "routing/convolve_cuda.cuh"

namespace hs {
namespace {

using namespace HS_ISA;

template <class T> cudaError_t convolve(const Convolution<T>& c, bool reverse, cudaStream_t stream) {
  const auto kernel = reverse ? adj_convolve_kernel<T> : c.t_inflow ? tangent_convolve_kernel<T> : convolve_kernel<T>;
  return launch(kernel, convolution_blocks(c, reverse), SERIES_THREADS, 0, stream, c);
}

template <class T>
cudaError_t sum_middle(const T* x, T* y, int64_t rows, int64_t n, int64_t columns, cudaStream_t stream) {
  const int64_t blocks = (rows * columns + SUM_THREADS - 1) / SUM_THREADS;
  return launch(sum_middle_kernel<T>, blocks, SUM_THREADS, 0, stream, x, y, rows, n, columns);
}

template <class Scheme, class T> struct LaunchTick {
  using Error = cudaError_t;
  cudaStream_t stream;

  cudaError_t operator()(bool adjoint, int64_t blocks, const Reaches<T>& r, const Tick<T>& tick) const {
    const auto kernel = adjoint ? tick_kernel<Scheme, T, true> : tick_kernel<Scheme, T, false>;
    return launch(kernel, blocks, TICK_THREADS, 0, stream, r, tick);
  }
};
template <class Scheme, class T> cudaError_t route(const Reaches<T>& r, bool reverse, cudaStream_t stream) {
  const Ticks<T, LaunchTick<Scheme, T>> ticks{r, {stream}};
  return reverse ? ticks.adjoint() : ticks.forward();
}

template <class Scheme> constexpr CudaScheme<HS_VALUE> routing() {
  return {Scheme::name, route<Scheme, HS_VALUE>, tick_scratch_rows<HS_VALUE>};
}

}  // namespace

template <> const CudaKernels<HS_VALUE>& cuda_kernels<HS_VALUE>() {
  static const CudaKernels<HS_VALUE> all = {convolve<HS_VALUE>, sum_middle<HS_VALUE>,
                                            {routing<Linear>(), routing<Ddr>(), routing<Todini>()}};
  return all;
}

}  // namespace hs
