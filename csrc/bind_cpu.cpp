// The Python binding of the CPU kernels: raw addresses and sizes in, a sum of Faults out. No torch header is needed;
// hybridsolve/solve/backends.py is the one caller, and has checked every shape and type.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bind_fields.h"
#include "bind_models.h"
#include "core/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace py = pybind11;

namespace hs {

// The models' tables by instruction set; setup.py says of which headers, as HS_HEADERS(TABLE) TABLE(hbv) TABLE(..).
#define HS_DECLARE(header) extern const Table<Model> header##_models;
#define HS_ADDRESS(header) &header##_models,
#define HS_TABLES(isa)                                            \
  namespace isa {                                                 \
  HS_HEADERS(HS_DECLARE)                                          \
  const Table<Model>* const tables[] = {HS_HEADERS(HS_ADDRESS)};  \
  }
HS_TABLES(baseline)
#if defined(HS_HAS_AVX2)
HS_TABLES(avx2)
#endif
#if defined(HS_HAS_AVX512)
HS_TABLES(avx512)
#endif

namespace {

std::vector<const Kernels*> built_and_supported() {  // best last
  std::vector<const Kernels*> all{&baseline::routing_kernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(HS_HAS_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&avx2::routing_kernels);
#endif
#if defined(HS_HAS_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    all.push_back(&avx512::routing_kernels);
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

Models<Model>& models() {
  static Models<Model> all([] {
    std::vector<const Table<Model>*> tables(std::begin(baseline::tables), std::end(baseline::tables));
#if defined(HS_HAS_AVX2)
    tables.insert(tables.end(), std::begin(avx2::tables), std::end(avx2::tables));
#endif
#if defined(HS_HAS_AVX512)
    tables.insert(tables.end(), std::begin(avx512::tables), std::end(avx512::tables));
#endif
    return tables;
  }(), "CPU");
  return all;
}

// A model with the kernel named by its place; and its kernels.
template <class Kernel> const Model& find_model(const std::string& name, bool is_double, Kernel ModelKernels::* kernel) {
  return models().find(name, kernels().isa, [=](const Model& model) { return model.kernels[is_double].*kernel != nullptr; });
}
template <class Kernel> const ModelKernels& find(const std::string& name, bool is_double, Kernel ModelKernels::* kernel) {
  return find_model(name, is_double, kernel).kernels[is_double];
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

// Blocks 0 .. n-1, each by whichever thread is free. Neighbouring blocks write into the same cache lines, row by row, so
// that blocks at work at the same time are far from each other: one of each thread's part in turn. Threads are made for the
// call and joined before it returns: that costs tens of microseconds, and leaves nothing behind that a fork could break.
template <class Work> void share(int64_t n, int n_threads, Work work) {
  std::atomic<int64_t> next{0};
  const int64_t part = (n + n_threads - 1) / n_threads;
  auto run = [&](int thread) {
    FlushDenormals flush;
    for (int64_t turn; (turn = next++) < part * n_threads;)
      if (const int64_t block = turn % n_threads * part + turn / n_threads; block < n) work(thread, block);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < n_threads && i < n; ++i) others.emplace_back(run, i);
  run(0);
  for (auto& t : others) t.join();
}

// A large result is written to memory that the system hands out page by page on first touch, which can take longer than
// computing it. Huge pages, where the system offers them, are 512 times fewer.
template <class T> T* fresh(T* p, int64_t bytes) {
#if defined(__linux__)
  const Address a = reinterpret_cast<Address>(p), page = 1 << 21;
  const Address begin = (a + page - 1) / page * page, end = (a + bytes) / page * page;
  if (a && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
  return p;
}

int64_t number_bytes(const Run& run) { return run.is_double ? sizeof(double) : sizeof(float); }

// A kernel over its blocks; a sum of Faults.
template <class In> int over_blocks(int64_t n, int n_threads, int (*kernel)(const In&, int64_t), const In& in) {
  std::atomic<int> fault{0};
  share(n, n_threads, [&](int, int64_t block) { fault |= kernel(in, block); });
  return fault;
}

int forward(const std::string& model, Run run, int n_threads) {
  run.n_threads = n_threads;
  const Model& found = find_model(model, run.is_double, &ModelKernels::forward);
  const ModelKernels& k = found.kernels[run.is_double];
  const int64_t columns = run.n_basins * (run.each ? run.n_components : run.n_groups);
  fresh(run.fluxes, run.n_outputs * run.n_steps * columns * number_bytes(run));
  const int64_t checkpoints = run.interval ? (run.n_steps + run.interval - 1) / run.interval : 0;
  fresh(run.checkpoints, checkpoints * found.names.rows * run.n_basins * run.n_components * number_bytes(run));
  return over_blocks(k.blocks(run), n_threads, k.forward, run);
}

void adjoint(const std::string& model, Run run, int n_threads) {
  run.n_threads = n_threads;
  const ModelKernels& k = find(model, run.is_double, &ModelKernels::adjoint);
  const int64_t columns = run.n_basins * run.n_groups, row = run.n_steps * number_bytes(run);
  for (void* d : run.d_forcing) fresh(d, row * columns);
  for (int i = 0; i < MAX_PARAMETERS; ++i)
    if (run.per_step[i]) fresh(run.d_parameter[i], row * (run.by_group[i] ? columns : run.n_basins * run.n_components));
  const size_t bytes = (k.workspace(run) + 63) / 64 * 64;
  std::vector<char> memory(bytes * n_threads + 64);
  char* aligned = memory.data() + (64 - reinterpret_cast<Address>(memory.data()) % 64) % 64;
  share(k.blocks(run), n_threads, [&](int thread, int64_t block) { k.adjoint(run, block, aligned + bytes * thread); });
}

int tangent(const std::string& model, Tangent in, int n_threads) {
  in.n_threads = n_threads;
  const ModelKernels& k = find(model, in.is_double, &ModelKernels::tangent);
  return over_blocks(k.tangent_blocks(in), n_threads, k.tangent, in);
}

int least_squares(const std::string& model, const LeastSquares& in, int n_threads) {
  const ModelKernels& k = find(model, in.is_double, &ModelKernels::least_squares);
  return over_blocks(k.least_squares_tasks(in), n_threads, k.least_squares, in);
}

template <class T> const ConvolutionKernels<T>& convolution();
template <> const ConvolutionKernels<float>& convolution() { return kernels().convolve_f32; }
template <> const ConvolutionKernels<double>& convolution() { return kernels().convolve_f64; }

template <class T> void convolve(const Convolution<T>& c, bool reverse, int n_threads) {
  const ConvolutionKernels<T>& k = convolution<T>();
  const auto work = c.t_inflow ? k.tangent : reverse ? k.adjoint : k.forward;
  fresh(reverse ? c.d_inflow : c.outflow, c.n_steps * c.n_series * sizeof(T));
  share((c.n_series + k.span - 1) / k.span, n_threads, [&](int, int64_t block) { work(c, block); });
}

template <class T> const RouteKernels<T>* schemes();
template <> const RouteKernels<float>* schemes() { return kernels().route_f32; }
template <> const RouteKernels<double>* schemes() { return kernels().route_f64; }

template <class T> bool route(const std::string& scheme, const Reaches<T>& r, bool reverse, int n_threads) {
  if (!reverse) fresh(r.discharge, r.n_steps * r.n_outputs * sizeof(T));
  const RouteKernels<T>* k = nullptr;
  for (int i = 0; i < N_SCHEMES; ++i)
    if (scheme == schemes<T>()[i].scheme) k = &schemes<T>()[i];
  if (!k)
    throw std::invalid_argument("routing scheme '" + scheme + "' has no CPU kernel in this build; reinstall hybridsolve.");
  // Tiles in order, or reversed, each by the thread whose turn it is: a tile waits for the one before, which is taken.
  const int64_t n = (r.n_steps + r.tile - 1) / r.tile;
  const int workers = int(n < n_threads ? n : n_threads);
  const size_t bytes = (k->workspace(r, reverse) + 63) / 64 * 64;
  const std::unique_ptr<char[]> memory(new char[bytes * workers + 64]);  // not filled: pages come as they are touched
  char* aligned = fresh(memory.get() + (64 - reinterpret_cast<Address>(memory.get()) % 64) % 64, bytes * workers);
  std::vector<int64_t> passed(n);
  std::atomic<bool> fault{false};
  share(workers, workers, [&](int, int64_t worker) {
    for (int64_t i = worker; i < n; i += workers) {
      if (reverse)
        k->adjoint(r, n - 1 - i, passed.data(), aligned + bytes * worker);
      else if (k->forward(r, i, passed.data(), aligned + bytes * worker))
        fault = true;
    }
  });
  return fault;
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

template <class T> void bind_routing(py::module_& m) {
  using Released = py::call_guard<py::gil_scoped_release>;
  bind_convolution<T>(m);
  m.def("convolve", convolve<T>, Released(), py::arg("convolution"), py::arg("reverse"), py::arg("n_threads"));
  bind_reaches<T>(m);
  m.def("route", route<T>, Released(), py::arg("scheme"), py::arg("reaches"), py::arg("reverse"), py::arg("n_threads"));
}

}  // namespace
}  // namespace hs

PYBIND11_MODULE(_cpu, m) {
  using namespace hs;
  using Released = py::call_guard<py::gil_scoped_release>;
  const py::arg n_threads("n_threads");
  bind_run(m);
  m.def("forward", forward, Released(), py::arg("model"), py::arg("run"), n_threads);
  m.def("adjoint", adjoint, Released(), py::arg("model"), py::arg("run"), n_threads);
  m.def("tangent", tangent, Released(), py::arg("model"), py::arg("run"), n_threads);
  m.def("least_squares", least_squares, Released(), py::arg("model"), py::arg("run"), n_threads);
  bind_routing<float>(m);
  bind_routing<double>(m);
  m.def(
      "sum_middle",
      [](bool is_double, Address from, Address into, int64_t rows, int64_t n, int64_t columns, int n_threads) {
        (is_double ? sum_middle<double> : sum_middle<float>)(from, into, rows, n, columns, n_threads);
      },
      Released(), py::arg("is_double"), py::arg("from_"), py::arg("into"), py::arg("rows"), py::arg("n"),
      py::arg("columns"), n_threads);
  m.def("isa", [] { return kernels().isa; });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Kernels* k : built_and_supported()) names.push_back(k->isa);
    return names;
  });
  m.def("models", [] { return models().names(kernels().isa); });
  m.def("load", [](const std::string& path) { models().load(path, {{"hybridsolve_models_cpu", kernels().isa}}); }, py::arg("path"));
}
