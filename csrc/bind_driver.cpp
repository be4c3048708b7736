// The Python binding of the GPU kernels that NVRTC has compiled: raw addresses, sizes, a device and a stream in, as
// bind_cuda.cpp has them, and the same launches, but by the driver itself. Any C++ compiler builds it, without CUDA.
//
// A kernel is compiled and loaded when a run first asks for it: `open` is told a function that compiles. It gets the
// name of a model, or of none, the kernel as a C++ expression, macros, and the card's compute capability, and gives the
// name of the kernel in the image that it has made, and the image.
#include <map>
#include <memory>
#include <mutex>
#include <sstream>

#include "bind_fields.h"
#include "core/driver.h"
#include "core/launch.h"
#include "routing/ticks.h"

namespace py = pybind11;

namespace hs {
namespace {

using driver::Calls;
using driver::Stream;
using Bytes = std::vector<char>;

// Of a kernel, in bytes: a struct and the numbers of `limits_in`. More than 4,096 are taken from CUDA 12.1 on.
constexpr size_t MOST_LIMITS = 2 * (MAX_FORCINGS + MAX_INPUTS + MAX_PARAMETERS + MAX_STATES) + 3 * MAX_PARAMETERS + 1;
constexpr size_t MOST_ARGUMENTS = sizeof(Tangent) + MOST_LIMITS * sizeof(double);
static_assert(sizeof(LeastSquares) <= sizeof(Tangent) && MOST_ARGUMENTS <= 32764, "no driver takes so much");
constexpr int OLDEST_DRIVER = 12010;

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

struct Kernel {
  std::string model, expression;  // no model: ""
  std::vector<std::string> macros;

  std::string key() const {
    std::string all = model + "\n" + expression;
    for (const std::string& macro : macros) all += "\n" + macro;
    return all;
  }
};

struct Loaded {
  driver::Function function = nullptr;
  std::string kernel;  // as an error names it
};

struct State {
  std::unique_ptr<Calls> calls;
  py::object compile;
  std::map<std::string, Shape> shapes;
  std::map<std::string, py::dict> names;
  std::map<int, driver::Context> contexts;
  std::map<std::pair<int, std::string>, Loaded> loaded;  // by device and Kernel::key
  std::mutex mutex;  // of the maps but `names`, which is Python's; who waits for it does not hold Python's lock
};
State& state() {  // never destroyed: Python may be gone before it would be
  static State& all = *new State;
  return all;
}

std::unique_lock<std::mutex> locked() {
  const py::gil_scoped_release python;
  return std::unique_lock<std::mutex>(state().mutex);
}

const Calls& cuda() {
  if (!state().calls) throw std::runtime_error("hybridsolve._driver must be opened before it is used: call open().");
  return *state().calls;
}

int capability(int device) {
  driver::Device handle;
  int major, minor;
  const std::string asking = "asking for the capability of GPU " + std::to_string(device);
  cuda().succeed(cuda().cuDeviceGet(&handle, device), asking);
  cuda().succeed(cuda().cuDeviceGetAttribute(&major, driver::CAPABILITY_MAJOR, handle), asking);
  cuda().succeed(cuda().cuDeviceGetAttribute(&minor, driver::CAPABILITY_MINOR, handle), asking);
  return 10 * major + minor;
}

// A card on a stream of which kernels are launched: its context, which is torch's too, is current until the end.
class OnDevice {
 public:
  OnDevice(int device, Address stream) : device(device), stream(reinterpret_cast<Stream>(stream)) {
    State& all = state();
    const std::lock_guard<std::mutex> lock(all.mutex);
    driver::Context& context = all.contexts[device];
    if (!context) {
      driver::Device handle;
      cuda().succeed(cuda().cuDeviceGet(&handle, device), "choosing GPU " + std::to_string(device));
      cuda().succeed(cuda().cuDevicePrimaryCtxRetain(&context, handle), "choosing GPU " + std::to_string(device));
    }
    cuda().succeed(cuda().cuCtxPushCurrent_v2(context), "choosing GPU " + std::to_string(device));
  }
  ~OnDevice() {
    driver::Context mine;
    cuda().cuCtxPopCurrent_v2(&mine);
  }
  OnDevice(const OnDevice&) = delete;

  Loaded find(const Kernel& kernel) const {
    State& all = state();
    const std::lock_guard<std::mutex> lock(all.mutex);  // of two threads that want a kernel one compiles it
    Loaded& found = all.loaded[{device, kernel.key()}];
    if (!found.function) found = load(kernel);
    return found;
  }

  // Arguments by value, those whose size is known here alone as bytes.
  template <class... A>
  void launch(const Loaded& kernel, int64_t blocks, int threads, int64_t shared, const A&... a) const {
    void* arguments[] = {address(a)...};
    driver::Result error = driver::INVALID_VALUE;
    if (blocks >= 1 && blocks <= INT32_MAX)
      error = cuda().cuLaunchKernel(kernel.function, unsigned(blocks), 1, 1, unsigned(threads), 1, 1, unsigned(shared),
                                    stream, arguments, nullptr);
    if (error) cuda().succeed(error, "launching " + kernel.kernel + " in " + std::to_string(blocks) + " blocks");
  }
  template <class... A>
  void launch(const Kernel& kernel, int64_t blocks, int threads, int64_t shared, const A&... a) const {
    launch(find(kernel), blocks, threads, shared, a...);
  }

 private:
  template <class A> static void* address(const A& a) { return const_cast<A*>(&a); }
  static void* address(const Bytes& a) { return const_cast<char*>(a.data()); }

  Loaded load(const Kernel& kernel) const {
    int capturing = 0;
    cuda().succeed(cuda().cuStreamIsCapturing(stream, &capturing), "asking whether a CUDA graph is captured");
    if (capturing)
      throw std::runtime_error("a CUDA graph cannot capture a kernel that has yet to be loaded; found " +
                               kernel.expression + ": make the same call once before the capture.");
    std::string name, image;
    {
      const py::gil_scoped_acquire python;
      const py::tuple made = state().compile(kernel.model, kernel.expression, kernel.macros, capability(device));
      name = made[0].cast<std::string>(), image = made[1].cast<std::string>();
    }
    driver::Module module;
    driver::Function function;
    cuda().succeed(cuda().cuModuleLoadData(&module, image.data()), "loading " + kernel.expression);
    cuda().succeed(cuda().cuModuleGetFunction(&function, module, name.c_str()), "loading " + kernel.expression);
    return {function, kernel.expression};
  }

  int device;
  Stream stream;
};

Shape shape_of(const std::string& model) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  const auto found = state().shapes.find(model);
  if (found == state().shapes.end())
    throw std::invalid_argument("model '" + model + "' has no source of CUDA kernels; reinstall hybridsolve.");
  return found->second;
}

const char* value_type(bool is_double) { return is_double ? "double" : "float"; }
int64_t value_bytes(const Run& run) { return run.is_double ? sizeof(double) : sizeof(float); }

// The kernel of that name for a model, with the flags of its template.
Kernel kernel_of(const std::string& name, const std::string& model, const Run& run,
                 const std::vector<bool>& flags = {}) {
  Kernel kernel{model, "hs::cuda::" + name + "<hs::cuda::model_" + model + ", " + value_type(run.is_double), {}};
  for (const bool flag : flags) kernel.expression += flag ? ", true" : ", false";
  kernel.expression += ">";
  return kernel;
}
// The same, compiled for what its inner loop asks of the run: see cuda.cuh.
Kernel special_kernel(const std::string& name, const std::string& model, const Run& run,
                      const std::vector<bool>& flags = {}) {
  Kernel kernel = kernel_of(name, model, run, flags);
  uint64_t per_step = 0;
  for (int i = 0; i < MAX_PARAMETERS; ++i) per_step |= uint64_t(run.per_step[i]) << i;
  std::string slots;
  for (const signed char slot : run.slot) slots += (slots.empty() ? "" : ",") + std::to_string(int(slot));
  kernel.macros = {"HS_WIDTH=" + std::to_string(run.width), "HS_EACH=" + std::to_string(run.each),
                   "HS_RAW=" + std::to_string(run.raw), "HS_PER_STEP=" + std::to_string(per_step) + "ull",
                   "HS_SLOTS=" + slots};
  return kernel;
}
static_assert(MAX_PARAMETERS <= 64, "a bit for each");

// The bytes of a model's Limits (core/model.h): numbers of one type, one after another.
template <class T> Bytes limits_in(const Run& run, const Shape& model) {
  std::vector<T> all;
  const auto put = [&](const Interval* x, int n) {
    for (int i = 0; i < n; ++i) all.push_back(T(x[i].lower)), all.push_back(T(x[i].upper));
  };
  put(run.forcing_bounds, model.F), put(run.input_bounds, model.K);
  if (model.K == 0) all.insert(all.end(), 2, T(0));
  put(run.parameter_bounds, model.P), put(run.state_bounds, model.S);
  for (int i = 0; i < model.P; ++i) {
    const Interval x = run.parameter_range[i];
    all.insert(all.end(), {T(x.lower), T(x.upper - x.lower), T(run.octaves[i])});
  }
  all.push_back(T(run.dt));
  const char* begin = reinterpret_cast<const char*>(all.data());
  return Bytes(begin, begin + all.size() * sizeof(T));
}
Bytes limits(const Run& run, const Shape& model) {
  return run.is_double ? limits_in<double>(run, model) : limits_in<float>(run, model);
}

void forward(const std::string& name, const Run& given, int device, Address stream) {
  check_run(given);
  const Shape model = shape_of(name);
  const Run run = prepared(given);
  const Kernel kernel = special_kernel("forward_kernel", name, run, {outflow_only(run, model), is_moving(run, model)});
  OnDevice(device, stream).launch(kernel, n_blocks(run), WARP, 0, run, limits(run, model));
}

int64_t tape_size(const std::string& name, const Run& given) {
  check_run(given);
  const Tapes tapes(prepared(given), shape_of(name), value_bytes(given));
  return tapes.n * tapes.length;
}

void adjoint(const std::string& name, const Run& given, int device, Address stream) {
  if (const int64_t size = tape_size(name, given); size && !given.tape)
    throw std::invalid_argument("the adjoint of " + name + " needs a tape of " + std::to_string(size) +
                                " values; found none: allocate what tape_size() says.");
  const Shape model = shape_of(name);
  Run run = prepared(given);
  const bool only = outflow_only(run, model);
  const std::vector<bool> flags{only, is_moving(run, model), !only || wants_forcing(run, model)};
  const Tapes tapes(run, model, value_bytes(run));
  if (!tapes.n) run.tape = nullptr;
  const int64_t shared = tapes.n ? 0 : tapes.length * value_bytes(run);
  OnDevice(device, stream)
      .launch(special_kernel("adjoint_kernel", name, run, flags), tapes.n ? tapes.n : n_blocks(run), WARP, shared, run,
              limits(run, model), n_blocks(run), tapes.length);
}

void tangent(const std::string& name, const Tangent& given, int device, Address stream) {
  check_run(given);
  const Tangent in = prepared(given);
  const Kernel kernel = special_kernel("tangent_kernel", name, in);
  OnDevice(device, stream).launch(kernel, n_blocks(in), WARP, 0, in, limits(in, shape_of(name)));
}

void least_squares(const std::string& name, const LeastSquares& in, int device, Address stream) {
  const Shape model = shape_of(name);
  OnDevice(device, stream)
      .launch(kernel_of("least_squares_kernel", name, in), least_squares_blocks(in, model), WARP, 0, in,
              limits(in, model));
}

template <class T> Kernel typed_kernel(const std::string& name) {
  return {"", "hs::cuda::" + name + "<" + value_type(sizeof(T) == sizeof(double)) + ">", {}};
}

template <class T> void convolve(const Convolution<T>& c, bool reverse, int device, Address stream) {
  const char* name = reverse ? "adj_convolve_kernel" : c.t_inflow ? "tangent_convolve_kernel" : "convolve_kernel";
  OnDevice(device, stream).launch(typed_kernel<T>(name), convolution_blocks(c, reverse), SERIES_THREADS, 0, c);
}

template <class T>
void sum_middle(Address from, Address into, int64_t rows, int64_t n, int64_t columns, int device, Address stream) {
  const int64_t blocks = (rows * columns + SUM_THREADS - 1) / SUM_THREADS;
  OnDevice(device, stream)
      .launch(typed_kernel<T>("sum_middle_kernel"), blocks, SUM_THREADS, 0, at<T>(from), to<T>(into), rows, n, columns);
}

template <class T> struct LaunchTick {
  using Error = int;
  const OnDevice& card;
  Loaded forward, adjoint;

  int operator()(bool reverse, int64_t blocks, const Reaches<T>& r, const Tick<T>& tick) const {
    card.launch(reverse ? adjoint : forward, blocks, TICK_THREADS, 0, r, tick);
    return 0;
  }
};

template <class T>
void route(const std::string& name, const Reaches<T>& reaches, bool reverse, int device, Address stream) {
  using namespace HS_ISA;
  const std::map<std::string, std::string> schemes{
      {Linear::name, "Linear"}, {Ddr::name, "Ddr"}, {Todini::name, "Todini"}};
  const auto scheme = schemes.find(name);
  if (scheme == schemes.end())
    throw std::invalid_argument("routing scheme '" + name + "' has no CUDA kernel in this build; reinstall hybridsolve.");
  const std::string begin = "hs::cuda::tick_kernel<hs::cuda::" + scheme->second + ", " +
                            value_type(sizeof(T) == sizeof(double)) + ", ";
  const OnDevice card(device, stream);
  const Loaded forward = card.find({"", begin + "false>", {}});
  const Loaded adjoint = reverse ? card.find({"", begin + "true>", {}}) : Loaded{};
  const Ticks<T, LaunchTick<T>> ticks{reaches, {card, forward, adjoint}};
  reverse ? ticks.adjoint() : ticks.forward();
}
template <class T> int64_t route_scratch(const std::string&, const Reaches<T>& reaches, bool reverse) {
  return tick_scratch_rows(reaches, reverse);
}

// Raises where the card cannot run what would be compiled.
void check(int device) {
  int count = 0;
  cuda().succeed(cuda().cuDeviceGetCount(&count), "counting GPUs");
  if (device < 0 || device >= count)
    throw std::runtime_error("backend 'cuda' was asked for GPU " + std::to_string(device) + "; found " +
                             std::to_string(count) + ": name one of those, or run on the CPU.");
  if (const int has = capability(device); has < 80)
    throw std::runtime_error("backend 'cuda' needs a GPU of compute capability 8.0 or higher; GPU " +
                             std::to_string(device) + " has " + std::to_string(has / 10) + "." +
                             std::to_string(has % 10) + ": use backend='triton'.");
}

int driver_version() {
  int found = 0;
  cuda().succeed(cuda().cuDriverGetVersion(&found), "asking for the driver's version");
  return found;
}

void open(const std::string& path, py::object compile) {
  State& all = state();
  auto calls = std::make_unique<Calls>(path);
  int found = 0;
  calls->succeed(calls->cuDriverGetVersion(&found), "asking for the driver's version");
  if (found < OLDEST_DRIVER)
    throw std::runtime_error("backend 'cuda' needs an NVIDIA driver for CUDA " + version(OLDEST_DRIVER) +
                             " or newer, that is 530 or newer, as its kernels take up to " +
                             std::to_string(MOST_ARGUMENTS) + " bytes of arguments; found one for " + version(found) +
                             ": update the driver.");
  const auto lock = locked();
  all.calls = std::move(calls), all.compile = compile;
  all.contexts.clear(), all.loaded.clear();
}

int words(const py::dict& names, const char* kind) {
  std::istringstream text(names[kind].cast<std::string>());
  int n = 0;
  for (std::string word; text >> word;) ++n;
  return n;
}

// Makes a model known, or another of its name, by what `models` of hybridsolve._cpu would say of it.
void add(const std::string& model, const py::dict& names) {
  const int states = words(names, "state_names");
  const Shape shape{words(names, "forcing_names"),
                    words(names, "input_names"),
                    words(names, "parameter_names"),
                    states,
                    names["outflow"].cast<int>(),
                    states + words(names, "line_names")};
  State& all = state();
  all.names[model] = names;
  const auto lock = locked();
  all.shapes[model] = shape;
  for (auto i = all.loaded.begin(); i != all.loaded.end();)
    i = i->first.second.compare(0, model.size() + 1, model + "\n") == 0 ? all.loaded.erase(i) : std::next(i);
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

PYBIND11_MODULE(_driver, m) {
  using namespace hs;
  using Released = py::call_guard<py::gil_scoped_release>;
  const py::arg model("model"), run("run"), device("device"), stream("stream");
  bind_run(m);
  m.def("forward", forward, Released(), model, run, device, stream);
  m.def("adjoint", adjoint, Released(), model, run, device, stream);
  m.def("tangent", tangent, Released(), model, run, device, stream);
  m.def("least_squares", least_squares, Released(), model, run, device, stream);
  m.def("tape_size", tape_size, Released(), model, run);
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
  m.def("open", open, py::arg("path"), py::arg("compile"));
  m.def("check", check, Released(), device);
  m.def("driver_version", driver_version);
  m.def("add", add, model, py::arg("names"));
  m.def("models", [] { return state().names; });
  m.def("sizes", [] { return std::vector<size_t>{sizeof(Run), sizeof(Tangent), sizeof(LeastSquares)}; });
}
