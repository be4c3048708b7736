// Blocks one after another, the threads of each as fibers: see cuda_runtime.h.
#include <cuda_runtime.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <ucontext.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t CHIP = 228 * 1024, STACK = 128 * 1024;
constexpr unsigned MOST_THREADS = 256, WARP = 32;
int current_device = 0;

}  // namespace

namespace hs {
namespace HS_ISA {
alignas(64) extern double on_chip[];
alignas(64) double on_chip[CHIP / sizeof(double)];
}  // namespace HS_ISA
}  // namespace hs

namespace on_cpu {
namespace {

struct Fiber {
  ucontext_t context;
  bool done;
  unsigned waits;  // how often it has waited for its warp
};

ucontext_t scheduler;
std::vector<Fiber> fibers;
std::unique_ptr<char[]> stacks;
unsigned running;
void (*body)(void*);
void* body_argument;
// The values of two waits in turn: a lane may reach the next wait while others have not yet read those of the last.
uint64_t given[2][MOST_THREADS];

void start() {
  body(body_argument);
  fibers[running].done = true;
  swapcontext(&fibers[running].context, &scheduler);
}

}  // namespace

const uint64_t* exchange(uint64_t mine) {
  Fiber& self = fibers[running];
  uint64_t* values = given[self.waits++ % 2];
  values[running] = mine;
  swapcontext(&self.context, &scheduler);
  return values + running / WARP * WARP;
}

cudaError_t run(dim3 blocks, dim3 threads, size_t shared, void (*thread)(void*), void* argument) {
  if (blocks.x == 0 || threads.x == 0 || threads.x > MOST_THREADS || shared > 48 * 1024) return cudaErrorInvalidValue;
  body = thread, body_argument = argument;
  fibers.resize(threads.x);
  if (!stacks) stacks.reset(new char[STACK * MOST_THREADS]);
  gridDim = blocks, blockDim = threads;
  unsigned char* chip = reinterpret_cast<unsigned char*>(hs::HS_ISA::on_chip);
  for (blockIdx = dim3(0); blockIdx.x < blocks.x; ++blockIdx.x) {
    memset(chip, 0xff, CHIP);
    for (unsigned i = 0; i < threads.x; ++i) {
      Fiber& f = fibers[i];
      f.done = false, f.waits = 0;
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = stacks.get() + STACK * i, f.context.uc_stack.ss_size = STACK;
      makecontext(&f.context, start, 0);
    }
    for (unsigned left = threads.x; left;) {  // each fiber up to its next wait, or to its end
      for (running = 0; running < threads.x; ++running)
        if (!fibers[running].done) {
          threadIdx = dim3(running);
          swapcontext(&scheduler, &fibers[running].context);
          left -= fibers[running].done;
        }
      for (unsigned i = 0; i < threads.x; ++i) {
        const Fiber &f = fibers[i], &of_warp = fibers[i / WARP * WARP];
        if (f.waits != of_warp.waits || f.done != of_warp.done) return cudaErrorLaunchFailure;
      }
    }
    for (size_t i = shared; i < CHIP; ++i)
      if (chip[i] != 0xff) return cudaErrorIllegalAddress;
  }
  return cudaSuccess;
}

namespace {
bool recording = false;
std::string written;
}  // namespace

bool records() { return recording; }
void record(const void* kernel, dim3 blocks, dim3 threads, size_t shared, cudaStream_t stream, void** arguments,
            const size_t* sizes, int n) {
  Dl_info found{};
  dladdr(kernel, &found);
  char* const name = abi::__cxa_demangle(found.dli_sname ? found.dli_sname : "", nullptr, nullptr, nullptr);
  written += "launch " + std::string(name ? name : "?") + " |";
  free(name);
  for (const size_t x : {size_t(blocks.x), size_t(threads.x), shared, reinterpret_cast<size_t>(stream),
                         size_t(current_device)})
    written += " " + std::to_string(x);
  for (int i = 0; i < n; ++i) {
    written += " ";
    for (size_t k = 0; k < sizes[i]; ++k) {
      const unsigned char byte = static_cast<const unsigned char*>(arguments[i])[k];
      written += {"0123456789abcdef"[byte / 16], "0123456789abcdef"[byte % 16]};
    }
  }
  written += "\n";
}

}  // namespace on_cpu

// Begins or ends the record, and gives what was written.
extern "C" const char* cuda_on_cpu_record(int whether) {
  static std::string taken;
  on_cpu::recording = whether, taken.swap(on_cpu::written), on_cpu::written.clear();
  return taken.c_str();
}

namespace {

int setting(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

}  // namespace

extern "C" int cuda_on_cpu_device() { return current_device; }  // for tests
cudaError_t cudaGetDevice(int* device) { return *device = current_device, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  if (device >= setting("CUDA_ON_CPU_GPUS", 1)) return cudaErrorInvalidValue;
  return current_device = device, cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) { return *count = setting("CUDA_ON_CPU_GPUS", 1), cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const int capability = setting("CUDA_ON_CPU_CAPABILITY", 86);
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10 : capability % 10;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = setting("CUDA_ON_CPU_DRIVER", 13000), cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorIllegalAddress  ? "memory behind the block's own was written"
         : error == cudaErrorLaunchFailure ? "lanes of a warp wait at different places"
                                           : "invalid argument";
}
