// What this machine can do at most, measured: rates of the operations that a step is made of, alone and two kinds mixed,
// the latency of each in a chain, and the bytes that a copy moves. Operations are those of packs of this instruction set,
// in registers, counted in numbers a second of all threads together.
//
// Compiled at first use for `hybridsolve bench`, which names the results in the order in which `measure` writes them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "core/pack.h"

namespace hs {
namespace HS_ISA {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Fma { template <class V> static HS_FN V of(V x, V a, V b) { return fma(x, a, b); } };
struct Add { template <class V> static HS_FN V of(V x, V a, V) { return x + a; } };
struct Below { template <class V> static HS_FN V of(V x, V a, V) { return below(a, x); } };
struct Divide { template <class V> static HS_FN V of(V x, V a, V) { return a / x; } };

// Keeps the compiler from seeing through a chain: from its side the value may be any.
template <class V> HS_FN void opaque(V& x) { asm volatile("" : "+x"(x)); }

// N independent chains, by turns of A and of B; members, since an array would stay in memory.
template <class A, class B, int N, class V> struct Chains {
  V x = splat<V>(typename Lane<V>::scalar(N));
  Chains<B, A, N - 1, V> others;
  HS_FN void step(V a, V b) {
    x = A::of(x, a, b);
    opaque(x);
    others.step(a, b);
  }
};
template <class A, class B, class V> struct Chains<A, B, 0, V> {
  HS_FN void step(V, V) {}
};

// Seconds of `rounds` steps.
template <class A, class B, int N, class V> double chains(long rounds) {
  using T = typename Lane<V>::scalar;
  V a = splat<V>(T(0.999)), b = splat<V>(T(1e-3));
  opaque(a), opaque(b);
  Chains<A, B, N, V> all;
  const double start = now();
  for (long n = 0; n < rounds; ++n) all.step(a, b);
  return now() - start;
}

// The least time of many short ones, between which the system may give the processor to others.
template <class Work> double least(Work work, int repeats = 40) {
  double found = work();
  for (int i = 1; i < repeats; ++i) {
    const double again = work();
    found = again < found ? again : found;
  }
  return found;
}

// Numbers a second of ten chains: enough to hide the latency of two units, few enough for sixteen registers.
template <class A, class B, class V> double rate(long rounds) {
  return 10 * sizeof(V) / sizeof(typename Lane<V>::scalar) * rounds / least([&] { return chains<A, B, 10, V>(rounds); });
}
template <class A, class V> double latency(long rounds) {
  return least([&] { return chains<A, A, 1, V>(rounds); }) / rounds;
}

constexpr long ROUNDS = 100000, SLOW = 10000;

template <class V> double* rates(double* out) {
  *out++ = rate<Fma, Fma, V>(ROUNDS);
  *out++ = rate<Add, Add, V>(ROUNDS);
  *out++ = rate<Below, Below, V>(ROUNDS);
  *out++ = rate<Divide, Divide, V>(SLOW);
  *out++ = rate<Fma, Add, V>(ROUNDS);
  *out++ = rate<Fma, Below, V>(ROUNDS);
  *out++ = rate<Add, Below, V>(ROUNDS);
  return out;
}
template <class V> double* latencies(double* out) {
  *out++ = latency<Fma, V>(ROUNDS);
  *out++ = latency<Add, V>(ROUNDS);
  *out++ = latency<Below, V>(ROUNDS);
  *out++ = latency<Divide, V>(SLOW);
  return out;
}

constexpr int RATES = 14, RESULTS = RATES + 8 + 1;

// Bytes a second that a thread reads and writes as it copies arrays far larger than its share of the caches.
inline double copied() {
  const size_t size = size_t(96) << 20;
  std::vector<char> from(size, 1), to(size, 2);
  const auto copy = [&] {
    const double start = now();
    std::memcpy(to.data(), from.data(), size);
    asm volatile("" : : "r"(to.data()) : "memory");
    return now() - start;
  };
  return 2.0 * size / least(copy, 12);
}

}  // namespace HS_ISA
}  // namespace hs

// Fills `out` with the rates in float, those in double, the latencies in both, and the bytes. Threads begin each part
// together; rates and bytes are summed over them, latencies are the first thread's.
extern "C" __attribute__((visibility("default"))) int measure(int n_threads, double* out) {
  using namespace hs::HS_ISA;
  std::vector<double> all(size_t(n_threads) * RESULTS);
  std::atomic<int> waiting{n_threads}, copying{n_threads};
  auto together = [](std::atomic<int>& here) {
    --here;
    while (here > 0) std::this_thread::yield();
  };
  auto work = [&](int thread) {
    double* mine = all.data() + size_t(thread) * RESULTS;
    together(waiting);
    double* next = latencies<f64>(latencies<f32>(rates<f64>(rates<f32>(mine))));
    together(copying);
    *next = copied();
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < n_threads; ++i) threads.emplace_back(work, i);
  work(0);
  for (auto& thread : threads) thread.join();
  for (int k = 0; k < RESULTS; ++k) {
    out[k] = all[k];
    const bool is_sum = k < RATES || k == RESULTS - 1;
    for (int i = 1; is_sum && i < n_threads; ++i) out[k] += all[size_t(i) * RESULTS + k];
  }
  return RESULTS;
}
