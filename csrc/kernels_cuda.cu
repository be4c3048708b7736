// All GPU kernels for one type of number: setup.py compiles this file with HS_VALUE=float and with HS_VALUE=double.
#include "core/cuda.cuh"
#include "core/cuda.h"
#include "core/tangent.cuh"
#include "models/hbv.h"
#include "routing/network_cuda.cuh"
#include "routing/unit_hydrograph_cuda.cuh"

namespace hs {
namespace {

using namespace HS_ISA;

template <class M> constexpr CudaModel describe(const char* name) {
  using L = Launch<M, HS_VALUE>;
  return {name,       M::forcing_names, M::parameter_names, M::state_names, M::flux_names,
          L::forward, L::adjoint,       tangent<M, HS_VALUE>, least_squares<M, HS_VALUE>, L::tape_size};
}

template <class Scheme> constexpr CudaScheme<HS_VALUE> routing() {
  using R = Ticks<Scheme, HS_VALUE>;
  return {Scheme::name, R::run, R::scratch_rows};
}

}  // namespace

template <> const CudaKernels<HS_VALUE>& cuda_kernels<HS_VALUE>() {
#define HS_MODEL(name, ...) describe<__VA_ARGS__>(#name),
  static const CudaModel models[] = {
#include "models.def"
  };
#undef HS_MODEL
  static const CudaKernels<HS_VALUE> all = {models, int(sizeof models / sizeof *models), convolve<HS_VALUE>,
                                            adj_convolve<HS_VALUE>, sum_middle<HS_VALUE>,
                                            {routing<Linear>(), routing<Ddr>(), routing<Todini>()}};
  return all;
}

}  // namespace hs
