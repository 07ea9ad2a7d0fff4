// Sixteen float32 sums of products of bfloat16 pairs.
//                                 latency / per cycle (Zen 5; Zen 4 halves the rate)
//   vdpbf16ps zmm                 5 / 2, two products a lane: twice the products of vfmadd231ps
#pragma once

#include <immintrin.h>

#include "cpu/inline.h"
#include "cpu/vec_avx512.h"

namespace fasttriplet::cpu::FT_TIER {

struct Avx512Bf16Vec : Avx512Vec {
  static constexpr int kPerWord = 2;

  // a and b hold two bfloat16 entries a lane. Products are exact, each of the two sums rounds, denormals count as zero.
  static FT_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
  }
};

}  // namespace fasttriplet::cpu::FT_TIER
