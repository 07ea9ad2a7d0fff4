// Sixteen float32 sums of products of bfloat16 pairs.
//                                 latency / per cycle (Zen 5; Zen 4 halves the rate)
//   vdpbf16ps zmm                 5 / 2, two products a lane: twice the products of vfmadd231ps
#pragma once

#include <immintrin.h>

#include "cpu/kernels/inline.h"
#include "cpu/isa/vec_avx512.h"

namespace fasttriplet::cpu::FT_TIER {

struct Avx512Bf16Vec : Avx512Vec {
  static constexpr int kPerWord = 2;
  static constexpr bool kRoundsToBfloat16 = true;

  // a and b hold two bfloat16 entries a lane. Products are exact, each of the two sums rounds, denormals count as zero.
  static FT_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
  }

  // Eight entries, ties to even, denormals to zero; packed, and as float32 in their place.
  static FT_INLINE void round_to_bfloat16(float* entries, float* words) {
    const __m128i packed = (__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(entries));
    _mm_storeu_si128((__m128i*)words, packed);
    _mm256_storeu_si256((__m256i*)entries, _mm256_slli_epi32(_mm256_cvtepu16_epi32(packed), 16));
  }
};

}  // namespace fasttriplet::cpu::FT_TIER
