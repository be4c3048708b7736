// The CPU kernels of routing for one instruction set: setup.py compiles this file once for each, with HS_ISA naming it.
#include "core/cpu.h"
#include "core/table.h"

namespace hs {
namespace HS_ISA {
namespace {

template <class V> constexpr ConvolutionKernels<typename Lane<V>::scalar> convolution() {
  return {Convolve<V>::SPAN, Convolve<V>::forward, Convolve<V>::adjoint, Convolve<V>::tangent};
}

template <class Scheme, class V> constexpr RouteKernels<typename Lane<V>::scalar> routing() {
  using R = Router<Scheme, V>;
  return {Scheme::name, Scheme::CONSTANTS, Scheme::STORES, R::workspace, R::forward, R::adjoint};
}

}  // namespace

extern const Kernels routing_kernels;
constexpr Kernels routing_kernels = {HS_STRING(HS_ISA), convolution<f32>(), convolution<f64>(),
                                     {routing<Linear, f32>(), routing<Ddr, f32>(), routing<Todini, f32>()},
                                     {routing<Linear, f64>(), routing<Ddr, f64>(), routing<Todini, f64>()}};

}  // namespace HS_ISA
}  // namespace hs
