// A stand-in for the NVIDIA driver's library, as much as csrc/core/driver.h calls: it keeps a record of what it is asked.
//
// An image is a text. "record SIZE SIZE .." is a module all of whose functions take arguments of these sizes, in bytes;
// their launches are recorded, with the arguments in hexadecimal. "run PATH" is a library whose functions are called
// with the blocks, the threads, the shared bytes and the arguments.
//
// One GPU of compute capability 8.6 with a driver for CUDA 13.0; the environment variables CUDA_STUB_GPUS,
// CUDA_STUB_CAPABILITY, CUDA_STUB_DRIVER, CUDA_STUB_CAPTURING and CUDA_STUB_START, an error of the start, say otherwise.
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID_VALUE = 1, NOT_FOUND = 500, MOST_ARGUMENTS = 8 };

struct Module {
  void* library;
  size_t sizes[MOST_ARGUMENTS];
  int n;
};
struct Function {
  const struct Module* module;
  char name[1024];
  int (*run)(unsigned blocks, unsigned threads, unsigned shared, void** arguments);
};

static char* text;
static size_t length, room;
static size_t contexts[8], current[8];
static int depth;

static void say(const char* format, ...) {
  va_list a;
  if (length + 4096 > room) text = realloc(text, room = 2 * room + 65536);
  va_start(a, format);
  length += (size_t)vsnprintf(text + length, 4096, format, a);
  va_end(a);
}

// What was recorded since it was last asked for.
const char* cuda_stub_record(void) {
  say("%s", "");
  length = 0;
  return text;
}

static int setting(const char* name, int otherwise) {
  const char* value = getenv(name);
  return value ? atoi(value) : otherwise;
}

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : setting("CUDA_STUB_START", 0); }
int cuGetErrorString(int error, const char** words) {
  *words = error == INVALID_VALUE ? "invalid argument" : error == NOT_FOUND ? "not found" : "of the stub";
  return 0;
}
int cuDriverGetVersion(int* version) { return *version = setting("CUDA_STUB_DRIVER", 13000), 0; }
int cuDeviceGetCount(int* count) { return *count = setting("CUDA_STUB_GPUS", 1), 0; }
int cuDeviceGet(int* device, int number) {
  if (number < 0 || number >= setting("CUDA_STUB_GPUS", 1)) return INVALID_VALUE;
  return *device = number, 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int capability = setting("CUDA_STUB_CAPABILITY", 86);
  (void)device;
  if (attribute != 75 && attribute != 76) return INVALID_VALUE;
  return *value = attribute == 75 ? capability / 10 : capability % 10, 0;
}
int cuDevicePrimaryCtxRetain(size_t** context, int device) {
  say("retain %d\n", device);
  contexts[device] = (size_t)device;
  return *context = &contexts[device], 0;
}
int cuCtxPushCurrent_v2(size_t* context) { return current[depth++] = *context, 0; }
int cuCtxPopCurrent_v2(size_t** context) { return *context = &contexts[current[--depth]], 0; }
int cuda_stub_depth(void) { return depth; }

int cuModuleLoadData(struct Module** module, const void* image) {
  struct Module* m = *module = calloc(1, sizeof *m);
  say("load %.300s\n", (const char*)image);
  if (!strncmp(image, "run ", 4)) return (m->library = dlopen((const char*)image + 4, RTLD_NOW)) ? 0 : INVALID_VALUE;
  if (strncmp(image, "record", 6)) return INVALID_VALUE;
  for (char* at = (char*)image + 6; *at && m->n < MOST_ARGUMENTS;) m->sizes[m->n++] = strtoul(at, &at, 10);
  return 0;
}
int cuModuleGetFunction(struct Function** function, struct Module* module, const char* name) {
  struct Function* f = *function = calloc(1, sizeof *f);
  f->module = module;
  snprintf(f->name, sizeof f->name, "%s", name);
  if (module->library) *(void**)&f->run = dlsym(module->library, name);
  return module->library && !f->run ? NOT_FOUND : 0;
}
int cuStreamIsCapturing(void* stream, int* status) {
  (void)stream;
  return *status = setting("CUDA_STUB_CAPTURING", 0), 0;
}

int cuLaunchKernel(struct Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** arguments, void** extra) {
  if (!depth || gx < 1 || gx > 0x7fffffff || gy != 1 || gz != 1 || by != 1 || bz != 1 || bx > 1024 || extra ||
      shared > 48 * 1024)
    return INVALID_VALUE;
  if (f->run) return f->run(gx, bx, shared, arguments);
  say("launch %s | %u %u %u %zu %zu", f->name, gx, bx, shared, (size_t)stream, current[depth - 1]);
  for (int i = 0; i < f->module->n; ++i) {
    say(" ");
    for (size_t k = 0; k < f->module->sizes[i]; ++k) say("%02x", ((const unsigned char*)arguments[i])[k]);
  }
  say("\n");
  return 0;
}
