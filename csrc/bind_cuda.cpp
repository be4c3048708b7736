// The Python binding of the GPU kernels: raw addresses, sizes, a device and a stream in; nothing waits for the result.
// No torch header is needed; hybridsolve/ has checked every shape and type. Importing it needs no GPU: check() says
// whether there is one that this build serves.
#include <cstdlib>

#include "bind_arguments.h"
#include "bind_routing.h"
#include "core/cuda.h"

namespace py = pybind11;

namespace hs {
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

template <class T> const CudaModel<T>& find(const std::string& name) {
  const CudaKernels<T>& k = cuda_kernels<T>();
  for (int i = 0; i < k.n_models; ++i)
    if (name == k.models[i].name) return k.models[i];
  throw std::invalid_argument("model '" + name + "' has no CUDA kernel in this build; reinstall hybridsolve.");
}

// A run that the kernels can take: they count steps in 32 bits, and know an output by its flux.
template <class T> Run<T> run_of(const Arguments& a) {
  const Run<T> run = a.run<T>();
  if (run.n_steps > INT32_MAX)
    throw std::invalid_argument("a run takes fewer than 2^31 steps; found " + std::to_string(run.n_steps) +
                                ": cut it into windows.");
  if (run.group_size < 1 || run.group_size > 32)
    throw std::invalid_argument("group_size must be 1 to 32; found " + std::to_string(run.group_size) +
                                ": cut the components into groups that a warp holds.");
  for (int o = 0; o < run.n_outputs; ++o)
    for (int other = 0; other < o; ++other)
      if (run.output[o] == run.output[other])
        throw std::invalid_argument("an output may be asked for once; found number " + std::to_string(run.output[o]) +
                                    " twice: leave one out.");
  return run;
}

template <class T> void forward(const Arguments& a, int device, cudaStream_t stream) {
  const Run<T> run = run_of<T>(a);
  const CudaModel<T>& model = find<T>(a.model);
  OnDevice on(device);
  succeed(model.forward(run, stream), "launching the CUDA kernel '" + a.model + " forward'");
}

template <class T> void adjoint(const Arguments& a, int device, cudaStream_t stream) {
  const Run<T> run = run_of<T>(a);
  const CudaModel<T>& model = find<T>(a.model);
  if (const int64_t size = run.tape ? 0 : model.tape_size(run))
    throw std::invalid_argument("the adjoint of " + a.model + " needs a tape of " + std::to_string(size) +
                                " values; found none: allocate what tape_size() says.");
  OnDevice on(device);
  succeed(model.adjoint(run, stream), "launching the CUDA kernel '" + a.model + " adjoint'");
}

template <class T> void tangent(const Arguments& a, int device, cudaStream_t stream) {
  const CudaModel<T>& model = find<T>(a.model);
  Tangent<T> in = a.tangent<T>();
  in.run = run_of<T>(a);
  OnDevice on(device);
  succeed(model.tangent(in, stream), "launching the CUDA kernel '" + a.model + " tangent'");
}

template <class T> void least_squares(const Arguments& a, int device, cudaStream_t stream) {
  const CudaModel<T>& model = find<T>(a.model);
  OnDevice on(device);
  succeed(model.least_squares(a.least_squares<T>(), stream), "launching the CUDA kernel '" + a.model + " least squares'");
}

template <class T>
void convolve(const std::vector<Address>& a, int64_t n_steps, int64_t n_series, bool reverse, int device,
              cudaStream_t stream) {
  const Convolution<T> c{n_steps,     n_series,    at<T>(a[0]), at<T>(a[1]), at<T>(a[2]), at<T>(a[3]),
                         to<T>(a[4]), at<T>(a[5]), to<T>(a[6]), to<T>(a[7]), to<T>(a[8]), to<T>(a[9]),
                         at<T>(a[11]), at<T>(a[12]), at<T>(a[13]), at<T>(a[14])};
  const CudaKernels<T>& k = cuda_kernels<T>();
  OnDevice on(device);
  succeed(reverse ? k.adj_convolve(c, to<T>(a[10]), stream) : k.convolve(c, stream),
          "launching the CUDA kernel 'unit hydrograph'");
}

template <class T>
void sum_middle(Address from, Address into, int64_t rows, int64_t n, int64_t columns, int device, cudaStream_t stream) {
  OnDevice on(device);
  succeed(cuda_kernels<T>().sum_middle(at<T>(from), to<T>(into), rows, n, columns, stream),
          "launching the CUDA kernel 'sum'");
}

template <class T> const CudaScheme<T>& find_scheme(const std::string& name) {
  for (const CudaScheme<T>& scheme : cuda_kernels<T>().schemes)
    if (name == scheme.name) return scheme;
  throw std::invalid_argument("routing scheme '" + name + "' has no CUDA kernel in this build; reinstall hybridsolve.");
}

template <class T> void route(const RouteArguments& a, int device, cudaStream_t stream) {
  const CudaScheme<T>& scheme = find_scheme<T>(a.scheme);
  OnDevice on(device);
  succeed(scheme.run(a.reaches<T>(), at<int32_t>(a.level), at<T>(a.initial), to<T>(a.scratch), a.reverse, stream),
          "launching the CUDA kernel 'route " + a.scheme + "'");
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

cudaStream_t stream_of(Address handle) { return reinterpret_cast<cudaStream_t>(handle); }

}  // namespace
}  // namespace hs

PYBIND11_MODULE(_cuda, m) {
  using namespace hs;
  using Released = py::call_guard<py::gil_scoped_release>;
  bind_arguments(m);
  m.def(
      "forward",
      [](const Arguments& a, int device, Address stream) {
        (a.is_double ? forward<double> : forward<float>)(a, device, stream_of(stream));
      },
      Released(), py::arg("arguments"), py::arg("device"), py::arg("stream"));
  m.def(
      "adjoint",
      [](const Arguments& a, int device, Address stream) {
        (a.is_double ? adjoint<double> : adjoint<float>)(a, device, stream_of(stream));
      },
      Released(), py::arg("arguments"), py::arg("device"), py::arg("stream"));
  m.def(
      "tangent",
      [](const Arguments& a, int device, Address stream) {
        (a.is_double ? tangent<double> : tangent<float>)(a, device, stream_of(stream));
      },
      Released(), py::arg("arguments"), py::arg("device"), py::arg("stream"));
  m.def(
      "least_squares",
      [](const Arguments& a, int device, Address stream) {
        (a.is_double ? least_squares<double> : least_squares<float>)(a, device, stream_of(stream));
      },
      Released(), py::arg("arguments"), py::arg("device"), py::arg("stream"));
  m.def(
      "tape_size",
      [](const Arguments& a) {
        return a.is_double ? find<double>(a.model).tape_size(run_of<double>(a))
                           : find<float>(a.model).tape_size(run_of<float>(a));
      },
      py::arg("arguments"));
  m.def(
      "unit_hydrograph",
      [](bool is_double, int64_t n_steps, int64_t n_series, const std::vector<Address>& arrays, bool reverse,
         int device, Address stream) {
        (is_double ? convolve<double> : convolve<float>)(arrays, n_steps, n_series, reverse, device, stream_of(stream));
      },
      Released(), py::arg("is_double"), py::arg("n_steps"), py::arg("n_series"), py::arg("arrays"), py::arg("reverse"),
      py::arg("device"), py::arg("stream"));
  m.def("unit_hydrograph_scratch", unit_hydrograph_scratch, py::arg("n_steps"), py::arg("n_series"));
  bind_route_arguments(m);
  m.def(
      "route",
      [](const RouteArguments& a, int device, Address stream) {
        (a.is_double ? route<double> : route<float>)(a, device, stream_of(stream));
      },
      Released(), py::arg("arguments"), py::arg("device"), py::arg("stream"));
  m.def("route_scratch", [](const RouteArguments& a) {  // values a reach
    return a.is_double ? find_scheme<double>(a.scheme).scratch_rows(a.reaches<double>(), a.reverse)
                       : find_scheme<float>(a.scheme).scratch_rows(a.reaches<float>(), a.reverse);
  });
  m.def(
      "sum_middle",
      [](bool is_double, Address from, Address into, int64_t rows, int64_t n, int64_t columns, int device,
         Address stream) {
        (is_double ? sum_middle<double> : sum_middle<float>)(from, into, rows, n, columns, device, stream_of(stream));
      },
      Released(), py::arg("is_double"), py::arg("from_"), py::arg("into"), py::arg("rows"), py::arg("n"),
      py::arg("columns"), py::arg("device"), py::arg("stream"));
  m.def("architectures", architectures);
  m.def("check", check, Released(), py::arg("device"));
  m.def("models", [] {
    py::dict models;
    const CudaKernels<float>& k = cuda_kernels<float>();
    for (int i = 0; i < k.n_models; ++i) {
      const CudaModel<float>& model = k.models[i];
      models[model.name] = py::dict(py::arg("forcing_names") = model.forcing_names,
                                    py::arg("parameter_names") = model.parameter_names,
                                    py::arg("state_names") = model.state_names,
                                    py::arg("flux_names") = model.flux_names);
    }
    return models;
  });
}
