// Eight float32 lanes.            latency / per cycle (Skylake, Zen 3)
//   vfmadd231ps ymm               4 / 2
//   vaddps, vcmpps ymm            4 / 2 (vcmpps on Zen: 1 / 2)
//   vmovmskps                     2 to 5 / 1
#pragma once

#include <immintrin.h>

#include "cpu/kernels/inline.h"

namespace fasttriplet::cpu::FT_TIER {

struct Avx2Vec {
  using Lanes = __m256;
  using Mask = __m256;
  static constexpr int kLanes = 8;
  static constexpr Format kFormat = Format::kFloat32;

  static FT_INLINE Lanes load(const float* p) { return _mm256_loadu_ps(p); }
  static FT_INLINE void store(float* p, Lanes v) { _mm256_storeu_ps(p, v); }
  static FT_INLINE Lanes set1(float x) { return _mm256_set1_ps(x); }
  static FT_INLINE Lanes zero() { return _mm256_setzero_ps(); }
  static FT_INLINE Lanes add(Lanes a, Lanes b) { return _mm256_add_ps(a, b); }
  static FT_INLINE Lanes negate(Lanes a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
  static FT_INLINE Lanes subtract(Lanes a, Lanes b) { return _mm256_sub_ps(a, b); }
  static FT_INLINE Lanes smaller(Lanes a, Lanes b) { return _mm256_min_ps(a, b); }
  static FT_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
  static FT_INLINE Lanes zip_low(Lanes a, Lanes b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
  }
  static FT_INLINE Lanes zip_high(Lanes a, Lanes b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
  }
  static FT_INLINE Mask at_least(Lanes a, Lanes b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
  static FT_INLINE Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
  static FT_INLINE Lanes larger(Lanes a, Lanes b) { return _mm256_max_ps(a, b); }
  static FT_INLINE Lanes root(Lanes a) { return _mm256_sqrt_ps(a); }
  static FT_INLINE Mask differ(Mask a, Mask b) { return _mm256_xor_ps(a, b); }
  static FT_INLINE Mask except(Mask a, Mask b) { return _mm256_andnot_ps(b, a); }
  static FT_INLINE Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
  static FT_INLINE Lanes choose(Mask m, Lanes yes, Lanes no) { return _mm256_blendv_ps(no, yes, m); }
  static FT_INLINE Mask none() { return _mm256_setzero_ps(); }
  static FT_INLINE unsigned bits(Mask m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }

  typedef double Part __attribute__((vector_size(32)));  // of wide-inl.h
  static FT_INLINE Part widen(const float* p) { return (Part)_mm256_cvtps_pd(_mm_loadu_ps(p)); }
  static FT_INLINE void narrow(float* p, Part v) { _mm_storeu_ps(p, _mm256_cvtpd_ps((__m256d)v)); }
};

}  // namespace fasttriplet::cpu::FT_TIER
