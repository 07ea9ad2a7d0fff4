// Sixteen float32 lanes.          latency / per cycle (Skylake-SP with two units, Zen 5)
//   vfmadd231ps zmm               4 / 2
//   vaddps zmm                    4 / 2 (Zen 5: 2 to 3 / 2)
//   vcmpps k, zmm                 3 to 4 / 1 (Zen 5: 5 / 2)
//   korw                          1 / 1
#pragma once

#include <immintrin.h>

#include "cpu/kernels/inline.h"

namespace fasttriplet::cpu::FT_TIER {

// Some intrinsics are used with a mask of all lanes: gcc 12 warns of the plain forms (its bug 105593) and makes the
// same code of these.
struct Avx512Vec {
  using Lanes = __m512;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;
  static constexpr Format kFormat = Format::kFloat32;

  static FT_INLINE Lanes load(const float* p) { return _mm512_loadu_ps(p); }
  static FT_INLINE void store(float* p, Lanes v) { _mm512_storeu_ps(p, v); }
  static FT_INLINE Lanes set1(float x) { return _mm512_set1_ps(x); }
  static FT_INLINE Lanes zero() { return _mm512_setzero_ps(); }
  static FT_INLINE Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
  static FT_INLINE Lanes negate(Lanes a) { return _mm512_sub_ps(_mm512_setzero_ps(), a); }
  static FT_INLINE Lanes subtract(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
  static FT_INLINE Lanes smaller(Lanes a, Lanes b) { return _mm512_maskz_min_ps(0xffff, a, b); }
  static FT_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
  static FT_INLINE Lanes zip_low(Lanes a, Lanes b) {
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
  }
  static FT_INLINE Lanes zip_high(Lanes a, Lanes b) {
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
                                  b);
  }
  static FT_INLINE Mask at_least(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  static FT_INLINE Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static FT_INLINE Lanes larger(Lanes a, Lanes b) { return _mm512_maskz_max_ps(0xffff, a, b); }
  static FT_INLINE Lanes root(Lanes a) { return _mm512_maskz_sqrt_ps(0xffff, a); }
  static FT_INLINE Mask differ(Mask a, Mask b) { return static_cast<Mask>(a ^ b); }
  static FT_INLINE Mask except(Mask a, Mask b) { return static_cast<Mask>(a & ~b); }
  static FT_INLINE Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static FT_INLINE Lanes choose(Mask m, Lanes yes, Lanes no) { return _mm512_mask_blend_ps(m, no, yes); }
  static FT_INLINE Mask none() { return 0; }
  static FT_INLINE unsigned bits(Mask m) { return m; }

  typedef double Part __attribute__((vector_size(64)));  // of wide-inl.h
  static FT_INLINE Part widen(const float* p) { return (Part)_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p)); }
  static FT_INLINE void narrow(float* p, Part v) { _mm256_storeu_ps(p, _mm512_maskz_cvtpd_ps(0xff, (__m512d)v)); }
};

}  // namespace fasttriplet::cpu::FT_TIER
