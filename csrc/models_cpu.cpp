// The CPU kernels of one header of models for one instruction set: compiled with HS_HEADER the header, HS_ISA the
// instruction set, and HS_NAME the header's name or HS_PLUGIN (core/table.h). A library may hold a part of them, which is
// compiled in less time: HS_PARTS is 1 for forward and adjoint, 2 for the tangent, 4 for least squares, or a sum of these,
// HS_VALUES 1 for float, 2 for double, 3 for both.
#include "core/cpu.h"
#include "core/drive.h"
#include HS_HEADER

#if !defined(HS_PARTS)
#define HS_PARTS 7
#define HS_VALUES 3
#endif

namespace hs {
namespace HS_ISA {
namespace {

template <class V, bool PAIRED> struct Interleaved {
  using type = Pair<V>;
};
template <class V> struct Interleaved<V, false> {
  using type = V;
};

template <class M, class V> struct Entry {
  using B = Block<M, typename Interleaved<V, M::STAGES == 0>::type>;

  static size_t workspace(const Run& run) { return B::tape_bytes(run); }
  static int64_t n_blocks(const Run& run) { return B::count(run); }
  static bool outflow_only(const Run& run) {
    return run.n_outputs == 1 && run.output[0] == M::OUTFLOW && !run.d_weights;
  }
  static int forward(const Run& run, int64_t block) {
    B b(run);
    return outflow_only(run) ? b.template forward<true>(block) : b.template forward<false>(block);
  }
  static void adjoint(const Run& run, int64_t block, void* workspace) {
    B b(run);
    auto tape = static_cast<typename B::TapeEntry*>(workspace);
    bool forcing = false;
    for (int i = 0; i < M::F; ++i) forcing |= run.d_forcing[i] != nullptr;
    if (!outflow_only(run)) return b.template adjoint<false, true>(block, tape);
    forcing ? b.template adjoint<true, true>(block, tape) : b.template adjoint<true, false>(block, tape);
  }
  template <int PARTS> static constexpr ModelKernels kernels() {
    ModelKernels k{};
    if constexpr (PARTS & 1) k.workspace = workspace, k.blocks = n_blocks, k.forward = forward, k.adjoint = adjoint;
    if constexpr (PARTS & 2) k.tangent_blocks = Forward<M, V>::count, k.tangent = Forward<M, V>::solve;
    if constexpr (PARTS & 4) k.least_squares_tasks = Sensitivity<M, V>::count, k.least_squares = Sensitivity<M, V>::solve;
    return k;
  }
};

template <class M> constexpr Model describe(const char* name) {
  return {name,
          names_of<M>(),
          {Entry<M, f32>::template kernels<HS_VALUES & 1 ? HS_PARTS : 0>(),
           Entry<M, f64>::template kernels<HS_VALUES & 2 ? HS_PARTS : 0>()}};
}

#define HS_KERNEL(name, ...) describe<__VA_ARGS__>(#name),
constexpr Model models[] = {HS_MODELS(HS_KERNEL)};
#undef HS_KERNEL

}  // namespace

extern const Table<Model> HS_TABLE;
constexpr Table<Model> HS_TABLE = {Table<Model>::STAMP, HS_STRING(HS_ISA), models, sizeof models / sizeof *models};
HS_EXPORT_TABLE(hs::Model, hybridsolve_models_cpu)

}  // namespace HS_ISA
}  // namespace hs
