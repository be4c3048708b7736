// A pack: as many lanes of float or double as one vector register of this instruction set holds. Compiler vector types
// carry + - * / and comparisons; this file adds the few operations that they lack. The overloads for plain float and
// double let the same model header serve a GPU thread, where a pack has one lane.
#pragma once

#include "portable.h"

#if defined(__x86_64__) && !defined(HS_CUDA)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define HS_PACK_BYTES 64
#elif defined(__AVX2__)
#define HS_PACK_BYTES 32
#else
#define HS_PACK_BYTES 16
#endif

namespace hs {
namespace HS_ISA {

template <class V> struct Lane;  // the scalar type of a value type, and integers of the same width for its bits
template <> struct Lane<float> { using scalar = float; using integer = int32_t; using bits = int32_t; };
template <> struct Lane<double> { using scalar = double; using integer = int64_t; using bits = int64_t; };

HS_FN float select(bool mask, float a, float b) { return mask ? a : b; }
HS_FN double select(bool mask, double a, double b) { return mask ? a : b; }
HS_FN bool any(bool mask) { return mask; }

#if !defined(HS_CUDA)
template <class T> struct PackOf;
template <> struct PackOf<float> { typedef float type __attribute__((vector_size(HS_PACK_BYTES))); };
template <> struct PackOf<double> { typedef double type __attribute__((vector_size(HS_PACK_BYTES))); };
using f32 = PackOf<float>::type;
using f64 = PackOf<double>::type;
typedef int32_t i32 __attribute__((vector_size(HS_PACK_BYTES)));
typedef int64_t i64 __attribute__((vector_size(HS_PACK_BYTES)));
template <> struct Lane<f32> { using scalar = float; using integer = int32_t; using bits = i32; };
template <> struct Lane<f64> { using scalar = double; using integer = int64_t; using bits = i64; };

HS_FN f32 select(i32 mask, f32 a, f32 b) { return mask ? a : b; }
HS_FN f64 select(i64 mask, f64 a, f64 b) { return mask ? a : b; }

#if defined(__AVX512DQ__)
HS_FN bool any(i32 mask) { return _mm512_movepi32_mask((__m512i)mask) != 0; }
HS_FN bool any(i64 mask) { return _mm512_movepi64_mask((__m512i)mask) != 0; }
#elif defined(__AVX2__)
HS_FN bool any(i32 mask) { return _mm256_movemask_ps((__m256)mask) != 0; }
HS_FN bool any(i64 mask) { return _mm256_movemask_pd((__m256d)mask) != 0; }
#endif
template <class M> HS_FN bool any(M mask) {
  bool found = false;
  for (unsigned l = 0; l < sizeof(M) / sizeof(mask[0]); ++l) found |= mask[l] != 0;
  return found;
}

template <class V> HS_FN void read(V& v, const typename Lane<V>::scalar* from) { __builtin_memcpy(&v, from, sizeof(V)); }
template <class V> HS_FN V load(const typename Lane<V>::scalar* from) {  // from any address
  V v;
  read(v, from);
  return v;
}
template <class V> HS_FN void store(typename Lane<V>::scalar* to, V v) { __builtin_memcpy(to, &v, sizeof(V)); }
#endif

template <class V> HS_FN V splat(typename Lane<V>::scalar x) { return V{} + x; }
template <class V> HS_FN typename Lane<V>::scalar& lane(V& v, int l) {
  return reinterpret_cast<typename Lane<V>::scalar*>(&v)[l];
}

// ratio(a, b) = a / b, on a GPU in float to 2 ulp, for normal b: the division there takes a slow path where a is 0, as it
// is on every dry day.
template <class V> HS_FN V ratio(V a, V b) { return a / b; }
#if defined(__CUDA_ARCH__)
HS_FN float ratio(float a, float b) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
  return a * __fmaf_rn(r, __fmaf_rn(-b, r, 1.0f), r);
}
#endif

// fma(a, b, c) = a b + c. Contraction is off in every build, so that a forward run and its recomputation in the adjoint
// give the same bits; where a fused product is wanted it is written. The baseline has no fused instruction and rounds
// twice: bits may differ between instruction sets, never within one.
// below(a, b) is the hardware's a < b ? a : b, above(a, b) its a > b ? a : b: both return b where either is NaN.
// A GPU has a minimum and a maximum that give a NaN where either operand is one, in float alone.
#if defined(__CUDA_ARCH__)
HS_FN float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
HS_FN double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
HS_FN float below(float a, float b) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
HS_FN float above(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
HS_FN float min(float a, float b) { return below(a, b); }
HS_FN float square_root(float x) { return __fsqrt_rn(x); }
HS_FN double square_root(double x) { return __dsqrt_rn(x); }
#elif defined(HS_CUDA)
HS_FN float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
HS_FN double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
HS_FN float square_root(float x) { return __builtin_sqrtf(x); }
HS_FN double square_root(double x) { return __builtin_sqrt(x); }
#elif defined(__AVX512F__)
HS_FN f32 fma(f32 a, f32 b, f32 c) { return (f32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
HS_FN f64 fma(f64 a, f64 b, f64 c) { return (f64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
HS_FN f32 below(f32 a, f32 b) { return (f32)_mm512_min_ps((__m512)a, (__m512)b); }
HS_FN f64 below(f64 a, f64 b) { return (f64)_mm512_min_pd((__m512d)a, (__m512d)b); }
HS_FN f32 above(f32 a, f32 b) { return (f32)_mm512_max_ps((__m512)a, (__m512)b); }
HS_FN f64 above(f64 a, f64 b) { return (f64)_mm512_max_pd((__m512d)a, (__m512d)b); }
#elif defined(__AVX2__) && defined(__FMA__)
HS_FN f32 fma(f32 a, f32 b, f32 c) { return (f32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
HS_FN f64 fma(f64 a, f64 b, f64 c) { return (f64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
HS_FN f32 below(f32 a, f32 b) { return (f32)_mm256_min_ps((__m256)a, (__m256)b); }
HS_FN f64 below(f64 a, f64 b) { return (f64)_mm256_min_pd((__m256d)a, (__m256d)b); }
HS_FN f32 above(f32 a, f32 b) { return (f32)_mm256_max_ps((__m256)a, (__m256)b); }
HS_FN f64 above(f64 a, f64 b) { return (f64)_mm256_max_pd((__m256d)a, (__m256d)b); }
#else
#define HS_NO_FMA
template <class V> HS_FN V fma(V a, V b, V c) { return a * b + c; }
#endif
#if defined(HS_CUDA) || !(defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__)))
template <class V> HS_FN V below(V a, V b) { return select(a < b, a, b); }
template <class V> HS_FN V above(V a, V b) { return select(a > b, a, b); }
#endif

#if !defined(HS_CUDA)
// from[at[l]] in every lane, and the square root of every lane. (With masks that hide nothing: without them g++ 12 warns
// of its own header.)
#if defined(__AVX512F__)
HS_FN f32 gather(const float* from, i32 at) {
  return (f32)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, (__m512i)at, from, 4);
}
HS_FN f64 gather(const double* from, i64 at) {
  return (f64)_mm512_mask_i64gather_pd(_mm512_setzero_pd(), 0xff, (__m512i)at, from, 8);
}
HS_FN f32 square_root(f32 x) { return (f32)_mm512_maskz_sqrt_ps(0xffff, (__m512)x); }
HS_FN f64 square_root(f64 x) { return (f64)_mm512_maskz_sqrt_pd(0xff, (__m512d)x); }
#elif defined(__AVX2__)
HS_FN f32 gather(const float* from, i32 at) { return (f32)_mm256_i32gather_ps(from, (__m256i)at, 4); }
HS_FN f64 gather(const double* from, i64 at) { return (f64)_mm256_i64gather_pd((const double*)from, (__m256i)at, 8); }
HS_FN f32 square_root(f32 x) { return (f32)_mm256_sqrt_ps((__m256)x); }
HS_FN f64 square_root(f64 x) { return (f64)_mm256_sqrt_pd((__m256d)x); }
#else
template <class V> HS_FN V each_gathered(const typename Lane<V>::scalar* from, typename Lane<V>::bits at) {
  V v;
  for (unsigned l = 0; l < sizeof(V) / sizeof(*from); ++l) lane(v, l) = from[at[l]];
  return v;
}
HS_FN f32 gather(const float* from, i32 at) { return each_gathered<f32>(from, at); }
HS_FN f64 gather(const double* from, i64 at) { return each_gathered<f64>(from, at); }
HS_FN f32 square_root(f32 x) {
  for (unsigned l = 0; l < sizeof(x) / sizeof(float); ++l) x[l] = __builtin_sqrtf(x[l]);
  return x;
}
HS_FN f64 square_root(f64 x) {
  for (unsigned l = 0; l < sizeof(x) / sizeof(double); ++l) x[l] = __builtin_sqrt(x[l]);
  return x;
}
#endif
// One pack, of which only the first n lanes are there.
template <class V> HS_FN V load_some(const typename Lane<V>::scalar* from, int64_t n) {
  if (n >= int64_t(sizeof(V) / sizeof(*from))) return load<V>(from);
  V v{};
  for (int l = 0; l < n; ++l) v[l] = from[l];
  return v;
}
template <class V> HS_FN void store_some(typename Lane<V>::scalar* to, V v, int64_t n) {
  if (n >= int64_t(sizeof(V) / sizeof(*to))) return store(to, v);
  for (int l = 0; l < n; ++l) to[l] = v[l];
}
#endif

}  // namespace HS_ISA
}  // namespace hs
