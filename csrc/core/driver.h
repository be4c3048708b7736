// The CUDA driver, as much of it as a launcher calls. Declared by hand from the documentation of its interface, and
// opened when it is asked for: neither building nor importing what includes this needs CUDA.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace hs {
namespace driver {

using Result = int;  // 0: success
constexpr Result INVALID_VALUE = 1;
using Device = int;
using Context = struct ContextOf*;
using Module = struct ModuleOf*;
using Function = struct FunctionOf*;
using Stream = struct StreamOf*;

constexpr int CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76;  // attributes of a device

#define HS_DRIVER(CALL)                                                                                          \
  CALL(cuInit, unsigned flags)                                                                                   \
  CALL(cuGetErrorString, Result, const char** text)                                                              \
  CALL(cuDriverGetVersion, int* version)                                                                         \
  CALL(cuDeviceGetCount, int* count)                                                                             \
  CALL(cuDeviceGet, Device* device, int number)                                                                  \
  CALL(cuDeviceGetAttribute, int* value, int attribute, Device)                                                  \
  CALL(cuDevicePrimaryCtxRetain, Context*, Device)                                                               \
  CALL(cuCtxPushCurrent_v2, Context)                                                                             \
  CALL(cuCtxPopCurrent_v2, Context*)                                                                             \
  CALL(cuModuleLoadData, Module*, const void* image)                                                             \
  CALL(cuModuleGetFunction, Function*, Module, const char* name)                                                 \
  CALL(cuStreamIsCapturing, Stream, int* status)                                                                 \
  CALL(cuLaunchKernel, Function, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z, unsigned threads_x,    \
       unsigned threads_y, unsigned threads_z, unsigned shared_bytes, Stream, void** arguments, void** extra)

struct Calls {
#define HS_DECLARE_CALL(name, ...) Result (*name)(__VA_ARGS__);
  HS_DRIVER(HS_DECLARE_CALL)
#undef HS_DECLARE_CALL

  // The library stays open: what it has loaded is in use until the process ends.
  explicit Calls(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) missing("found none (" + std::string(dlerror()) + ")");
#define HS_FIND_CALL(name, ...)                                                 \
  name = reinterpret_cast<Result (*)(__VA_ARGS__)>(dlsym(library, #name));      \
  if (!name) missing("found one without " #name);
    HS_DRIVER(HS_FIND_CALL)
#undef HS_FIND_CALL
    if (const Result error = cuInit(0)) missing("found one that cannot start (" + text(error) + ")");
  }

  std::string text(Result error) const {
    const char* words = nullptr;
    cuGetErrorString(error, &words);
    return words ? words : "error " + std::to_string(error);
  }
  void succeed(Result error, const std::string& what) const {
    if (error)
      throw std::runtime_error(what + " failed: " + text(error) +
                               "; hybridsolve info tells whether this card can run it.");
  }

 private:
  [[noreturn]] static void missing(const std::string& found) {
    throw std::runtime_error("backend 'cuda' needs an NVIDIA driver for CUDA 12.1 or newer; " + found +
                             ": install one, or run on the CPU.");
  }
};

}  // namespace driver
}  // namespace hs
