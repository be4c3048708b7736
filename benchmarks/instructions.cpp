// The CPU kernels of AVX2 without Python, on one thread and small fixed shapes, for callgrind to count: all work of a
// case is done by one call of `measured`, and the names of the cases are printed in the order of these calls. What the
// kernels take is filled in at one place, `Case`.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../csrc/core/cpu.h"

using namespace hs;

namespace hs {
namespace avx2 { extern const Table<Model> hbv_models; }
}  // namespace hs

// callgrind collects inside of this function alone, and writes its counts when it returns.
extern "C" __attribute__((noinline)) void measured(const std::function<void()>& work) { work(); }

static void measure(const std::string& name, const std::function<void()>& work) {
  std::printf("%s\n", name.c_str());
  measured(work);
}

static int words(const char* names) {
  int n = 1;
  for (; *names; ++names) n += *names == ' ';
  return n;
}

// Ranges of HBV's parameters, in the order of its table.
static const double RANGE[][2] = {{1, 6},    {50, 1000},  {0.05, 0.9}, {0.01, 0.5}, {0.001, 0.2}, {0.2, 1}, {0, 10},
                                  {0, 100},  {-2.5, 2.5}, {0.5, 10},   {0, 0.1},    {0, 0.2},     {0.3, 5}, {0, 1}};

template <class T> const ConvolutionKernels<T>& convolution();
template <> const ConvolutionKernels<float>& convolution<float>() { return avx2::routing_kernels.convolve_f32; }
template <> const ConvolutionKernels<double>& convolution<double>() { return avx2::routing_kernels.convolve_f64; }

template <class T> struct Case {
  int64_t n_basins, n_components, n_steps;
  uint32_t seed = 1;
  std::vector<std::unique_ptr<char[]>> kept;

  T* zeros(int64_t n) {  // at a multiple of 64 bytes, as torch has it
    kept.emplace_back(new char[n * sizeof(T) + 64]());
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(kept.back().get()) + 63) / 64 * 64);
  }
  T* uniform(int64_t n, double lower, double upper) {
    T* x = zeros(n);
    for (int64_t i = 0; i < n; ++i) {
      seed = seed * 1664525u + 1013904223u;
      x[i] = T(lower + (upper - lower) * (seed >> 8) / (1 << 24));
    }
    return x;
  }
  int64_t cells() const { return n_basins * n_components; }
  View of_steps(const T* x) const { return {x, n_basins, 1, 0}; }
  View of_cells(const T* x) const { return {x, 0, n_components, n_components > 1 ? 1 : 0}; }

  // All of a run with streamflow as its one output, and of its adjoint for static parameters.
  void fill(Run& r, const Model& model) {
    const int P = words(model.names.parameters), S = words(model.names.states);
    r.is_double = sizeof(T) == 8;
    r.n_steps = n_steps, r.n_basins = n_basins, r.n_components = n_components;
    r.n_groups = (n_components + 15) / 16, r.group_size = (n_components + r.n_groups - 1) / r.n_groups;
    const double forcing[][2] = {{-20, 30}, {-8, 16}, {0, 5}};  // prcp, tmean, pet
    for (int i = 0; i < 3; ++i) {
      T* x = uniform(n_steps * n_basins, forcing[i][0], forcing[i][1]);
      for (int64_t j = 0; i == 0 && j < n_steps * n_basins; ++j) x[j] = x[j] < 0 ? 0 : x[j];
      r.forcing[i] = of_steps(x);
      r.forcing_bounds[i] = {-1e5, 1e5};
    }
    for (int i = 0; i < P; ++i) {
      r.parameter[i] = of_cells(uniform(cells(), RANGE[i][0], RANGE[i][1]));
      r.parameter_bounds[i] = {-1e5, 1e5};
      r.d_parameter[i] = zeros(cells());
    }
    r.initial_state = uniform(S * cells(), 0, 40);
    for (int i = 0; i < S; ++i) r.state_bounds[i] = {0, 1e30};
    r.dt = 1;
    r.n_outputs = 1;
    r.fluxes = zeros(n_steps * n_basins * r.n_groups), r.final_state = zeros(S * cells());
    r.interval = 8, r.checkpoints = zeros((n_steps + 7) / 8 * S * cells());
    r.d_fluxes = of_steps(uniform(n_steps * n_basins, -1, 1));
    r.d_final_state = zeros(S * cells()), r.d_initial_state = zeros(S * cells());
  }
  Run run(const Model& model) {
    Run r{};
    fill(r, model);
    return r;
  }
  LeastSquares least_squares(const Model& model) {
    const int N = words(model.names.parameters) + 2;
    LeastSquares l{};
    fill(l, model);
    const auto ordinates = [&] { return View{uniform(15 * cells(), 0, 0.2), cells(), n_components, 1}; };
    for (int i = 0; i < N - 2; ++i) l.along[i] = true;
    l.length = 15, l.n_routing = 2;
    l.ordinates = ordinates(), l.d_ordinates[0] = ordinates(), l.d_ordinates[1] = ordinates();
    l.target = of_steps(uniform(n_steps * n_basins, 0, 5)), l.weight = of_steps(uniform(n_steps * n_basins, 0, 1));
    l.shift = {zeros(1), 0, 0, 0};
    l.transform = IDENTITY, l.exponent = 1;
    l.normal = zeros((N * (N + 1) / 2 + N + 1) * cells());
    return l;
  }
  Convolution<T> hydrograph() {
    const int64_t n = cells(), past = 14;
    Convolution<T> c{};
    c.n_steps = n_steps, c.n_series = n, c.length = past + 1;
    c.inflow = uniform(n_steps * n, 0, 9), c.memory = uniform(past * n, 0, 9);
    c.ordinates = uniform((past + 1) * n, 0, 0.2);
    c.outflow = zeros(n_steps * n), c.d_outflow = uniform(n_steps * n, -1, 1);
    c.d_inflow = zeros(n_steps * n), c.d_memory = zeros(past * n), c.d_ordinates = zeros((past + 1) * n);
    return c;
  }
};

static int faults = 0;

static void forward(const ModelKernels& k, const Run& run) {
  for (int64_t block = 0; block < k.blocks(run); ++block) faults |= k.forward(run, block);
}

template <class T> void model_cases(const Model& model, Case<T> c, const std::string& name) {
  const ModelKernels& k = model.kernels[sizeof(T) == 8];
  const Run run = c.run(model);
  void* workspace = c.zeros(k.workspace(run) / sizeof(T));
  measure(name + " forward", [&] { forward(k, run); });
  measure(name + " forward + adjoint", [&] {
    forward(k, run);
    for (int64_t block = 0; block < k.blocks(run); ++block) k.adjoint(run, block, workspace);
  });
}

template <class T> void least_squares_case(const Model& model, Case<T> c, const std::string& name) {
  const ModelKernels& k = model.kernels[sizeof(T) == 8];
  const LeastSquares in = c.least_squares(model);
  measure(name + " normal equations", [&] {
    for (int64_t task = 0; task < k.least_squares_tasks(in); ++task) faults |= k.least_squares(in, task);
  });
}

template <class T> void hydrograph_cases(Case<T> c, const std::string& name) {
  const ConvolutionKernels<T>& k = convolution<T>();
  const Convolution<T> in = c.hydrograph();
  const auto all = [&](void (*work)(const Convolution<T>&, int64_t)) {
    for (int64_t block = 0; block * k.span < in.n_series; ++block) work(in, block);
  };
  measure(name + " forward", [&] { all(k.forward); });
  measure(name + " forward + adjoint", [&] { all(k.forward), all(k.adjoint); });
}

const Model& find(const std::string& name) {
  const Table<Model>& all = avx2::hbv_models;
  for (int i = 0; i < all.n_models; ++i)
    if (name == all.models[i].name) return all.models[i];
  std::fprintf(stderr, "the kernels have no model %s\n", name.c_str());
  std::exit(EXIT_FAILURE);
}

template <class T> void cases(const std::string& type, const std::vector<std::string>& models) {
  for (const auto& shape : {std::pair<int, int>{64, 16}, {512, 1}}) {
    const auto of_basins = [&](int n) { return Case<T>{n, shape.second, 64, 1, {}}; };
    const auto called = [&](const std::string& what, int n) {
      return what + " " + std::to_string(n) + "x" + std::to_string(shape.second) + "x64 " + type;
    };
    const int n = shape.first, few = n / 4;  // few: so much work that all else would take no time beside it
    for (const std::string& name : models) {
      model_cases<T>(find(name), of_basins(n), called(name, n));
      least_squares_case<T>(find(name), of_basins(few), called(name, few));
    }
    hydrograph_cases<T>(of_basins(n), called("unit_hydrograph", n));
  }
}

int main() {
  cases<float>("float32", {"hbv10", "hbv11p"});
  cases<double>("float64", {"hbv11p"});
  if (faults) std::fprintf(stderr, "a kernel found a value out of bounds: %d\n", faults);
  return faults ? EXIT_FAILURE : EXIT_SUCCESS;
}
