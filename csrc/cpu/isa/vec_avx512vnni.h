// Sixteen int32 sums of products of four int8 entries.
//                                 latency / per cycle (Zen 4)
//   vpdpbusd zmm                  4 / 1, four products a lane: four times the products of vfmadd231ps
//   vpxord zmm                    1 / 2
#pragma once

#include <immintrin.h>

#include "cpu/kernels/inline.h"
#include "cpu/isa/vec_avx512int16.h"

namespace fasttriplet::cpu::FT_TIER {

struct Avx512VnniVec : Avx512Int16Vec {
  static constexpr Format kFormat = Format::kInt8;

  // The instruction takes one side as unsigned: the columns plus 128. Sums begin with what that adds, negative.
  static FT_INLINE Lanes to_unsigned(Lanes columns) {
    return (Lanes)((__m512i)columns ^ _mm512_set1_epi8(static_cast<char>(0x80)));
  }
  static FT_INLINE Lanes multiply_add(Lanes row, Lanes columns, Lanes c) {
    asm("vpdpbusd %1, %2, %0" : "+v"(c) : "v"(row), "v"(columns));
    return c;
  }
  static FT_INLINE Lanes first_sums(const float* words, int64_t depth, int64_t stride) {
    const Lanes ones = (Lanes)_mm512_set1_epi8(1);
    Lanes total = zero();
    for (int64_t k = 0; k < depth; ++k) total = multiply_add(load(words + k * stride), ones, total);
    return (Lanes)_mm512_sub_epi32(_mm512_setzero_si512(), _mm512_maskz_slli_epi32(0xffff, (__m512i)total, 7));
  }
};

}  // namespace fasttriplet::cpu::FT_TIER
