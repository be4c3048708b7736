// The Python binding of the CPU kernels: raw addresses and sizes in, a sum of Faults out. No torch header is needed;
// hybridsolve/backends.py is the one caller, and has checked every shape and type.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "core/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace py = pybind11;

namespace hs {
namespace {

std::vector<const Kernels*> built_and_supported() {  // best last
  std::vector<const Kernels*> all{&baseline::kernels()};
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(HS_HAS_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&avx2::kernels());
#endif
#if defined(HS_HAS_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    all.push_back(&avx512::kernels());
#endif
#endif
  return all;
}

const Kernels& choose() {
  const auto all = built_and_supported();
  const char* wish = std::getenv("HYBRIDSOLVE_ISA");
  if (!wish || !*wish) return *all.back();
  std::string names;
  for (const Kernels* k : all) {
    if (std::string(k->isa) == wish) return *k;
    names += (names.empty() ? "" : ", ") + std::string(k->isa);
  }
  throw std::runtime_error("HYBRIDSOLVE_ISA is '" + std::string(wish) + "', but this build on this processor has " +
                           names + "; set it to one of these or unset it.");
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const Model& find(const std::string& name) {
  const Kernels& k = kernels();
  for (int i = 0; i < k.n_models; ++i)
    if (name == k.models[i].name) return k.models[i];
  throw std::invalid_argument("model '" + name + "' has no CPU kernel in this build; reinstall hybridsolve.");
}

// Denormal numbers are taken as zero while a kernel runs: a reservoir that drains for a year would otherwise compute in
// microcode. The results differ by less than 1e-37 mm.
struct FlushDenormals {
#if defined(__x86_64__)
  unsigned saved = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(saved | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved); }
#endif
};

// Blocks 0 .. n-1, each by whichever thread is free. Threads are made for the call and joined before it returns: that
// costs tens of microseconds, and leaves nothing behind that a fork could break.
template <class Work> void share(int64_t n, int n_threads, Work work) {
  std::atomic<int64_t> next{0};
  auto run = [&](int thread) {
    FlushDenormals flush;
    for (int64_t block; (block = next++) < n;) work(thread, block);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < n_threads && i < n; ++i) others.emplace_back(run, i);
  run(0);
  for (auto& t : others) t.join();
}

using Address = uintptr_t;

// A large result is written to memory that the system hands out page by page on first touch, which can take longer than
// computing it. Huge pages, where the system offers them, are 512 times fewer.
template <class T> T* fresh(Address a, int64_t n) {
#if defined(__linux__)
  const Address page = 1 << 21, begin = (a + page - 1) / page * page, end = (a + n * sizeof(T)) / page * page;
  if (a && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
  return reinterpret_cast<T*>(a);
}
using Input = std::tuple<Address, int64_t, int64_t, int64_t, double, double>;  // data, strides over T, B, C, bounds

template <class T> const T* at(Address a) { return reinterpret_cast<const T*>(a); }
template <class T> T* to(Address a) { return reinterpret_cast<T*>(a); }
template <class T> View<T> view(const Input& i) { return {at<T>(std::get<0>(i)), std::get<1>(i), std::get<2>(i), std::get<3>(i)}; }

struct Arguments {  // of forward and adjoint alike
  std::string model;
  bool is_double;
  int64_t n_steps, n_basins, n_components, group_size;
  std::vector<Input> forcing, parameters;
  std::vector<bool> per_step, by_group;
  Input weights;
  Address initial_state;
  std::vector<int> outputs;
  bool each;
  int64_t interval;
  Address checkpoints;

  template <class T> Run<T> run() const {
    Run<T> r{};
    r.n_steps = n_steps, r.n_basins = n_basins, r.n_components = n_components, r.group_size = group_size;
    r.n_groups = (n_components + group_size - 1) / group_size;
    for (size_t i = 0; i < forcing.size(); ++i) {
      r.forcing[i] = view<T>(forcing[i]);
      r.forcing_bounds[i] = {std::get<4>(forcing[i]), std::get<5>(forcing[i])};
    }
    for (size_t i = 0; i < parameters.size(); ++i) {
      r.parameter[i] = view<T>(parameters[i]);
      r.parameter_bounds[i] = {std::get<4>(parameters[i]), std::get<5>(parameters[i])};
      r.per_step[i] = per_step[i], r.by_group[i] = by_group[i];
    }
    r.weights = view<T>(weights);
    r.initial_state = at<T>(initial_state);
    r.n_outputs = int(outputs.size());
    for (size_t i = 0; i < outputs.size(); ++i) r.output[i] = outputs[i];
    r.each = each;
    r.interval = interval, r.checkpoints = to<T>(checkpoints);
    return r;
  }
};

template <class T> int forward(const ModelKernels<T>& k, Run<T> run, Address fluxes, Address final_state, int n_threads) {
  const int64_t n_cells = run.n_basins * run.n_components;
  run.fluxes = fresh<T>(fluxes, run.n_outputs * run.n_steps * (run.each ? n_cells : run.n_basins * run.n_groups));
  run.final_state = to<T>(final_state);
  std::atomic<int> fault{0};
  share(k.forward_blocks(run), n_threads, [&](int, int64_t block) { fault |= k.forward(run, block); });
  return fault;
}

template <class T>
void adjoint(const ModelKernels<T>& k, Run<T> run, const std::vector<int64_t>& d_fluxes, Address d_final_state,
             const std::vector<Address>& d_forcing, const std::vector<Address>& d_parameters, Address d_initial_state,
             Address d_weights, int n_threads) {
  run.d_fluxes = {at<T>(Address(d_fluxes[0])), d_fluxes[2], d_fluxes[3], d_fluxes[4]};
  run.d_fluxes_stride = d_fluxes[1], run.d_final_state = at<T>(d_final_state);
  const int64_t columns = run.n_basins * ((run.n_components + run.group_size - 1) / run.group_size);
  for (size_t i = 0; i < d_forcing.size(); ++i) run.d_forcing[i] = fresh<T>(d_forcing[i], run.n_steps * columns);
  for (size_t i = 0; i < d_parameters.size(); ++i) {
    const int64_t n = run.by_group[i] ? columns : run.n_basins * run.n_components;
    run.d_parameter[i] = run.per_step[i] ? fresh<T>(d_parameters[i], run.n_steps * n) : to<T>(d_parameters[i]);
  }
  run.d_initial_state = to<T>(d_initial_state), run.d_weights = to<T>(d_weights);
  const size_t bytes = (k.workspace(run) + 63) / 64 * 64;
  std::vector<char> memory(bytes * n_threads + 64);
  char* aligned = memory.data() + (64 - reinterpret_cast<Address>(memory.data()) % 64) % 64;
  share(k.adjoint_blocks(run), n_threads, [&](int thread, int64_t block) { k.adjoint(run, block, aligned + bytes * thread); });
}

template <class T>
void convolve(const ConvolutionKernels<T>& k, Convolution<T> c, bool reverse, int n_threads) {
  share((c.n_series + k.span - 1) / k.span, n_threads,
        [&](int, int64_t block) { reverse ? k.adjoint(c, block) : k.forward(c, block); });
}

template <class T> Convolution<T> convolution(const std::vector<Address>& a, int64_t n_steps, int64_t n_series) {
  const int64_t n = n_steps * n_series;
  return {n_steps,       n_series,    at<T>(a[0]),       at<T>(a[1]), at<T>(a[2]), at<T>(a[3]), fresh<T>(a[4], n),
          at<T>(a[5]), fresh<T>(a[6], n), to<T>(a[7]), to<T>(a[8]), to<T>(a[9])};
}

// The sums of x [rows, n, columns] over its middle axis, in order: what an axis of size 1 in the input asks of its
// gradient, and what joins the groups of components.
template <class T> void sum_middle(Address from, Address into, int64_t rows, int64_t n, int64_t columns, int n_threads) {
  const T* x = at<T>(from);
  T* y = to<T>(into);
  share(rows, n_threads, [&](int, int64_t r) {
    for (int64_t c = 0; c < columns; ++c) y[r * columns + c] = 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < columns; ++c) y[r * columns + c] += x[(r * n + i) * columns + c];
  });
}

}  // namespace
}  // namespace hs

PYBIND11_MODULE(_cpu, m) {
  using namespace hs;
  py::class_<Arguments>(m, "Arguments")
      .def(py::init([](std::string model, bool is_double, std::vector<int64_t> sizes, std::vector<Input> forcing,
                       std::vector<Input> parameters, std::vector<bool> per_step, std::vector<bool> by_group,
                       Input weights, Address initial_state,
                       std::vector<int> outputs, bool each, int64_t interval, Address checkpoints) {
             if (forcing.size() > MAX_FORCINGS || parameters.size() > MAX_PARAMETERS || outputs.size() > MAX_OUTPUTS)
               throw std::invalid_argument("a run takes at most " + std::to_string(MAX_OUTPUTS) + " outputs; " +
                                           std::to_string(outputs.size()) + " were asked for: ask for fewer at a time.");
             return Arguments{model,   is_double,     sizes[0], sizes[1], sizes[2], sizes[3], forcing, parameters,
                              per_step, by_group, weights, initial_state, outputs, each, interval, checkpoints};
           }),
           py::kw_only(), py::arg("model"), py::arg("is_double"), py::arg("sizes"), py::arg("forcing"),
           py::arg("parameters"), py::arg("per_step"), py::arg("by_group"), py::arg("weights"), py::arg("initial_state"), py::arg("outputs"),
           py::arg("each"), py::arg("interval"), py::arg("checkpoints"));
  m.def(
      "forward",
      [](const Arguments& a, Address fluxes, Address final_state, int n_threads) {
        const Model& model = find(a.model);
        return a.is_double ? forward(model.f64, a.run<double>(), fluxes, final_state, n_threads)
                           : forward(model.f32, a.run<float>(), fluxes, final_state, n_threads);
      },
      py::call_guard<py::gil_scoped_release>(), py::kw_only(), py::arg("arguments"), py::arg("fluxes"),
      py::arg("final_state"), py::arg("n_threads"));
  m.def(
      "adjoint",
      [](const Arguments& a, std::vector<int64_t> d_fluxes, Address d_final_state, std::vector<Address> d_forcing,
         std::vector<Address> d_parameters, Address d_initial_state, Address d_weights, int n_threads) {
        const Model& model = find(a.model);
        if (a.is_double)
          adjoint(model.f64, a.run<double>(), d_fluxes, d_final_state, d_forcing, d_parameters, d_initial_state,
                  d_weights, n_threads);
        else
          adjoint(model.f32, a.run<float>(), d_fluxes, d_final_state, d_forcing, d_parameters, d_initial_state,
                  d_weights, n_threads);
      },
      py::call_guard<py::gil_scoped_release>(), py::kw_only(), py::arg("arguments"), py::arg("d_fluxes"),
      py::arg("d_final_state"), py::arg("d_forcing"), py::arg("d_parameters"), py::arg("d_initial_state"),
      py::arg("d_weights"), py::arg("n_threads"));
  m.def(
      "unit_hydrograph",
      [](bool is_double, int64_t n_steps, int64_t n_series, std::vector<Address> arrays, bool reverse, int n_threads) {
        if (is_double)
          convolve(kernels().convolve_f64, convolution<double>(arrays, n_steps, n_series), reverse, n_threads);
        else
          convolve(kernels().convolve_f32, convolution<float>(arrays, n_steps, n_series), reverse, n_threads);
      },
      py::call_guard<py::gil_scoped_release>(), py::kw_only(), py::arg("is_double"), py::arg("n_steps"),
      py::arg("n_series"), py::arg("arrays"), py::arg("reverse"), py::arg("n_threads"));
  m.def(
      "sum_middle",
      [](bool is_double, Address from, Address into, int64_t rows, int64_t n, int64_t columns, int n_threads) {
        (is_double ? sum_middle<double> : sum_middle<float>)(from, into, rows, n, columns, n_threads);
      },
      py::call_guard<py::gil_scoped_release>());
  m.def("isa", [] { return kernels().isa; });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Kernels* k : built_and_supported()) names.push_back(k->isa);
    return names;
  });
  m.def("models", [] {
    py::dict models;
    for (int i = 0; i < kernels().n_models; ++i) {
      const Model& model = kernels().models[i];
      models[model.name] = py::dict(py::arg("forcing_names") = model.forcing_names,
                                    py::arg("parameter_names") = model.parameter_names,
                                    py::arg("state_names") = model.state_names, py::arg("flux_names") = model.flux_names);
    }
    return models;
  });
}
