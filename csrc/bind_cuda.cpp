// The Python binding of the GPU kernels: raw addresses, sizes, a device and a stream in; nothing waits for the result.
// No torch header is needed; hybridsolve/ has checked every shape and type. Importing it needs no GPU: check() says
// whether there is one that this build serves.
#include <cstdlib>

#include "bind_fields.h"
#include "bind_models.h"
#include "core/cuda.h"

namespace py = pybind11;

namespace hs {

// The models' tables by type of number; setup.py says of which headers, as HS_HEADERS(TABLE) TABLE(hbv) TABLE(..).
#define HS_DECLARE(header) extern const Table<CudaModel> header##_models;
#define HS_ADDRESS(type, header) &type::header##_models,
#define HS_OF_FLOAT(header) HS_ADDRESS(of_float, header)
#define HS_OF_DOUBLE(header) HS_ADDRESS(of_double, header)
namespace of_float { HS_HEADERS(HS_DECLARE) }
namespace of_double { HS_HEADERS(HS_DECLARE) }

namespace {

const std::vector<std::string>& architectures() {  // "sm_80", and "compute_90" for code that the driver translates
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names{""};
    for (const char* c = HS_CUDA_ARCHITECTURES; *c; ++c)
      if (*c == ' ') names.emplace_back();
      else names.back() += *c;
    return names;
  }();
  return all;
}

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

void succeed(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(what + " failed: " + cudaGetErrorString(error) +
                           "; hybridsolve._cuda.check() tells whether this card can run it.");
}

// The thread's device while a kernel is launched. Left alone where it is the right one already: choosing a device makes
// the driver set it up.
struct OnDevice {
  int before = 0, device;
  explicit OnDevice(int device) : device(device) {
    succeed(cudaGetDevice(&before), "asking for the current GPU");
    if (before != device) succeed(cudaSetDevice(device), "choosing GPU " + std::to_string(device));
  }
  ~OnDevice() {
    if (before != device) cudaSetDevice(before);
  }
  OnDevice(const OnDevice&) = delete;
};

Models<CudaModel>& models() {
  static Models<CudaModel> all({HS_HEADERS(HS_OF_FLOAT) HS_HEADERS(HS_OF_DOUBLE)}, "CUDA");
  return all;
}

const CudaModel& find(const std::string& name, bool is_double) {
  return models().find(name, is_double ? "double" : "float");
}

void launched(cudaError_t error, const std::string& kernel) { succeed(error, "launching the CUDA kernel '" + kernel + "'"); }

cudaStream_t stream_of(Address handle) { return reinterpret_cast<cudaStream_t>(handle); }

void forward(const std::string& name, const Run& run, int device, Address stream) {
  check_run(run);
  const CudaModel& model = find(name, run.is_double);
  OnDevice on(device);
  launched(model.forward(run, stream_of(stream)), name + " forward");
}

int64_t tape_size(const std::string& name, const Run& run) {
  check_run(run);
  return find(name, run.is_double).tape_size(run);
}

void adjoint(const std::string& name, const Run& run, int device, Address stream) {
  if (const int64_t size = tape_size(name, run); size && !run.tape)
    throw std::invalid_argument("the adjoint of " + name + " needs a tape of " + std::to_string(size) +
                                " values; found none: allocate what tape_size() says.");
  const CudaModel& model = find(name, run.is_double);
  OnDevice on(device);
  launched(model.adjoint(run, stream_of(stream)), name + " adjoint");
}

void tangent(const std::string& name, const Tangent& in, int device, Address stream) {
  check_run(in);
  const CudaModel& model = find(name, in.is_double);
  OnDevice on(device);
  launched(model.tangent(in, stream_of(stream)), name + " tangent");
}

void least_squares(const std::string& name, const LeastSquares& in, int device, Address stream) {
  const CudaModel& model = find(name, in.is_double);
  OnDevice on(device);
  launched(model.least_squares(in, stream_of(stream)), name + " least squares");
}

template <class T> void convolve(const Convolution<T>& c, bool reverse, int device, Address stream) {
  const CudaKernels<T>& k = cuda_kernels<T>();
  OnDevice on(device);
  launched(k.convolve(c, reverse, stream_of(stream)), "convolution");
}

template <class T>
void sum_middle(Address from, Address into, int64_t rows, int64_t n, int64_t columns, int device, Address stream) {
  OnDevice on(device);
  launched(cuda_kernels<T>().sum_middle(at<T>(from), to<T>(into), rows, n, columns, stream_of(stream)), "sum");
}

template <class T> const CudaScheme<T>& find_scheme(const std::string& name) {
  for (const CudaScheme<T>& scheme : cuda_kernels<T>().schemes)
    if (name == scheme.name) return scheme;
  throw std::invalid_argument("routing scheme '" + name + "' has no CUDA kernel in this build; reinstall hybridsolve.");
}

template <class T>
void route(const std::string& name, const Reaches<T>& reaches, bool reverse, int device, Address stream) {
  const CudaScheme<T>& scheme = find_scheme<T>(name);
  OnDevice on(device);
  launched(scheme.run(reaches, reverse, stream_of(stream)), "route " + name);
}
template <class T> int64_t route_scratch(const std::string& name, const Reaches<T>& reaches, bool reverse) {
  return find_scheme<T>(name).scratch_rows(reaches, reverse);
}

// Raises where the card cannot run what was built.
void check(int device) {
  int driver = 0, runtime = 0, count = 0, major = 0, minor = 0;
  succeed(cudaDriverGetVersion(&driver), "asking for the driver's version");
  succeed(cudaRuntimeGetVersion(&runtime), "asking for the CUDA runtime's version");
  if (driver == 0)
    throw std::runtime_error("backend 'cuda' needs an NVIDIA driver for CUDA " + version(runtime) +
                             " or newer; found none: install one, or run on the CPU.");
  if (driver / 1000 < runtime / 1000)
    throw std::runtime_error("backend 'cuda' needs an NVIDIA driver for CUDA " + version(runtime) +
                             " or newer; found one for " + version(driver) +
                             ": update the driver, or build hybridsolve with that toolkit.");
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  cudaGetLastError();
  if (device < 0 || device >= count)
    throw std::runtime_error("backend 'cuda' was asked for GPU " + std::to_string(device) + "; found " +
                             std::to_string(count) + ": name one of those, or run on the CPU.");
  succeed(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for the GPU's capability");
  succeed(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking for the GPU's capability");
  // Machine code serves later cards of the same generation; what the driver translates serves all later cards.
  const int found = 10 * major + minor;
  std::string built;
  for (const std::string& name : architectures()) {
    const int number = std::atoi(name.c_str() + name.find('_') + 1);
    const bool translated = name.compare(0, 2, "sm") != 0;
    if (number <= found && (translated ? driver >= runtime : number / 10 == major)) return;
    built += (built.empty() ? "" : ", ") + name;
  }
  throw std::runtime_error("backend 'cuda' was built for " + built + "; GPU " + std::to_string(device) +
                           " has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
                           ": build hybridsolve with HYBRIDSOLVE_CUDA_ARCHS=" + std::to_string(found) +
                           ", or use backend='triton'.");
}

template <class T> void bind_routing(py::module_& m) {
  using Released = py::call_guard<py::gil_scoped_release>;
  const py::arg device("device"), stream("stream");
  bind_convolution<T>(m);
  m.def("convolve", convolve<T>, Released(), py::arg("convolution"), py::arg("reverse"), device, stream);
  bind_reaches<T>(m);
  m.def("route", route<T>, Released(), py::arg("scheme"), py::arg("reaches"), py::arg("reverse"), device, stream);
  m.def("route_scratch", route_scratch<T>, py::arg("scheme"), py::arg("reaches"), py::arg("reverse"));
}

}  // namespace
}  // namespace hs

PYBIND11_MODULE(_cuda, m) {
  using namespace hs;
  using Released = py::call_guard<py::gil_scoped_release>;
  const py::arg model("model"), run("run"), device("device"), stream("stream");
  bind_run(m);
  m.def("forward", forward, Released(), model, run, device, stream);
  m.def("adjoint", adjoint, Released(), model, run, device, stream);
  m.def("tangent", tangent, Released(), model, run, device, stream);
  m.def("least_squares", least_squares, Released(), model, run, device, stream);
  m.def("tape_size", tape_size, model, run);
  bind_routing<float>(m);
  bind_routing<double>(m);
  m.def("convolution_chunks", convolution_chunks, py::arg("n_steps"), py::arg("length"));
  m.def(
      "sum_middle",
      [](bool is_double, Address from, Address into, int64_t rows, int64_t n, int64_t columns, int device,
         Address stream) {
        (is_double ? sum_middle<double> : sum_middle<float>)(from, into, rows, n, columns, device, stream);
      },
      Released(), py::arg("is_double"), py::arg("from_"), py::arg("into"), py::arg("rows"), py::arg("n"),
      py::arg("columns"), device, stream);
  m.def("architectures", architectures);
  m.def("check", check, Released(), py::arg("device"));
  m.def("models", [] { return models().names("float"); });
  m.def(
      "load",
      [](const std::string& path) {
        models().load(path, {{"hybridsolve_models_cuda_float", "float"}, {"hybridsolve_models_cuda_double", "double"}});
      },
      py::arg("path"));
}
