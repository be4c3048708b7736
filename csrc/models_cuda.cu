// The GPU kernels of one header of models for one type of number: compiled with HS_HEADER the header, HS_VALUE float or
// double, and HS_NAME the header's name or HS_PLUGIN (core/table.h).
#include "core/launch.cuh"
#include HS_HEADER

namespace hs {
namespace HS_JOIN(of_, HS_VALUE) {
namespace {

using namespace HS_ISA;

template <class M> constexpr CudaModel describe(const char* name) {
  using L = Launch<M, HS_VALUE>;
  return {name, names_of<M>(), L::forward, L::adjoint, L::tangent, L::least_squares, L::tape_size};
}

#define HS_KERNEL(name, ...) describe<__VA_ARGS__>(#name),
constexpr CudaModel models[] = {HS_MODELS(HS_KERNEL)};
#undef HS_KERNEL

}  // namespace

extern const Table<CudaModel> HS_TABLE;
constexpr Table<CudaModel> HS_TABLE = {Table<CudaModel>::STAMP, HS_STRING(HS_VALUE), models,
                                       sizeof models / sizeof *models};
HS_EXPORT_TABLE(hs::CudaModel, HS_JOIN(hybridsolve_models_cuda_, HS_VALUE))

}  // namespace HS_JOIN(of_, HS_VALUE)
}  // namespace hs
