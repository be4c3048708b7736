// The GPU kernels of routing and of sums for one type of number: compiled with HS_VALUE=float and with HS_VALUE=double.
#include "core/cuda.cuh"
#include "core/cuda.h"
#include "routing/network_cuda.cuh"
#include "routing/convolve_cuda.cuh"

namespace hs {
namespace {

using namespace HS_ISA;

template <class Scheme> constexpr CudaScheme<HS_VALUE> routing() {
  using R = Ticks<Scheme, HS_VALUE>;
  return {Scheme::name, R::run, R::scratch_rows};
}

}  // namespace

template <> const CudaKernels<HS_VALUE>& cuda_kernels<HS_VALUE>() {
  static const CudaKernels<HS_VALUE> all = {convolve<HS_VALUE>, sum_middle<HS_VALUE>,
                                            {routing<Linear>(), routing<Ddr>(), routing<Todini>()}};
  return all;
}

}  // namespace hs
