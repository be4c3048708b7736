// What one thread of this machine can do at most: vector operations per second (independent fused multiply-adds in
// float32) and bytes copied per second (read and written, arrays far larger than the caches' share). Prints both and
// the lanes of a vector.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
typedef float V __attribute__((vector_size(BYTES)));
constexpr int LANES = BYTES / sizeof(float);

static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int main(int argc, char**) {
  // Ten chains: enough to hide the latency of two units, few enough for sixteen registers. The factors come from argc,
  // or the compiler would know the result.
  constexpr int CHAINS = 10;
  constexpr long ROUNDS = 20000000;
  const V a = V{} + 0.999f * argc, b = V{} + 1e-3f * argc;
  V x[CHAINS];
  for (int i = 0; i < CHAINS; ++i) x[i] = V{} + float(i);
  double operations = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const double start = now();
    for (long n = 0; n < ROUNDS; ++n)
      for (int i = 0; i < CHAINS; ++i) x[i] = x[i] * a + b;
    operations = std::max(operations, double(CHAINS) * ROUNDS / (now() - start));
  }
  float used = 0;
  for (int i = 0; i < CHAINS; ++i) used += x[i][0];

  const size_t size = size_t(256) << 20;
  std::vector<char> from(size, 1), to(size, 2);
  double bytes = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const double start = now();
    std::memcpy(to.data(), from.data(), size);
    bytes = std::max(bytes, 2.0 * size / (now() - start));
    used += to[repeat];
  }
  std::fprintf(stderr, "%g\n", used);
  std::printf("%.4g %.4g %d\n", operations, bytes, LANES);
}
