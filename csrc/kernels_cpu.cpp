// All CPU kernels for one instruction set: setup.py compiles this file once for each, with HS_ISA naming it.
#include "core/cpu.h"
#include "core/drive.h"
#include "models/hbv.h"

#define HS_STRING_(x) #x
#define HS_STRING(x) HS_STRING_(x)

namespace hs {
namespace HS_ISA {
namespace {

template <class M, class V> struct Entry {
  using B = Block<M, Pair<V>>;

  static size_t workspace(const Run& run) { return B::tape_bytes(run); }
  static int64_t n_blocks(const Run& run) { return B::count(run); }
  static bool streamflow_only(const Run& run) {
    return run.n_outputs == 1 && run.output[0] == 0 && !run.d_weights;
  }
  static int forward(const Run& run, int64_t block) {
    B b(run);
    return streamflow_only(run) ? b.template forward<true>(block) : b.template forward<false>(block);
  }
  static void adjoint(const Run& run, int64_t block, void* workspace) {
    B b(run);
    auto tape = static_cast<typename B::Taped*>(workspace);
    bool forcing = false;
    for (int i = 0; i < M::F; ++i) forcing |= run.d_forcing[i] != nullptr;
    if (!streamflow_only(run)) return b.template adjoint<false, true>(block, tape);
    forcing ? b.template adjoint<true, true>(block, tape) : b.template adjoint<true, false>(block, tape);
  }
  static constexpr ModelKernels kernels() {
    using FT = Forward<M, V>;
    using LS = Sensitivity<M, V>;
    return {workspace, n_blocks, forward, adjoint, FT::count, FT::solve, LS::count, LS::solve};
  }
};

template <class M> constexpr Model describe(const char* name) {
  return {name, M::forcing_names, M::parameter_names, M::state_names, M::flux_names,
          {Entry<M, f32>::kernels(), Entry<M, f64>::kernels()}};
}

template <class V> constexpr ConvolutionKernels<typename Lane<V>::scalar> convolution() {
  return {Convolve<V>::SPAN, Convolve<V>::forward, Convolve<V>::adjoint, Convolve<V>::tangent};
}

template <class Scheme, class V> constexpr RouteKernels<typename Lane<V>::scalar> routing() {
  using R = Router<Scheme, V>;
  return {Scheme::name, Scheme::CONSTANTS, Scheme::STORES, R::workspace, R::forward, R::adjoint};
}

}  // namespace

const Kernels& kernels() {
#define HS_MODEL(name, ...) describe<__VA_ARGS__>(#name),
  static const Model models[] = {
#include "models.def"
  };
#undef HS_MODEL
  static const Kernels all = {HS_STRING(HS_ISA), models, int(sizeof models / sizeof *models), convolution<f32>(),
                              convolution<f64>(),
                              {routing<Linear, f32>(), routing<Ddr, f32>(), routing<Todini, f32>()},
                              {routing<Linear, f64>(), routing<Ddr, f64>(), routing<Todini, f64>()}};
  return all;
}

}  // namespace HS_ISA
}  // namespace hs
