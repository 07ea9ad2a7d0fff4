// Sixteen int32 sums of products of int16 pairs.
//                                 latency / per cycle (Zen 4)
//   vpdpwssd zmm                  4 / 1, two products a lane: twice the products of vfmadd231ps
//   vcvtdq2ps zmm                 4 / 1
#pragma once

#include <immintrin.h>

#include "cpu/kernels/inline.h"
#include "cpu/isa/vec_avx512.h"

namespace fasttriplet::cpu::FT_TIER {

struct Avx512Int16Vec : Avx512Vec {
  static constexpr Format kFormat = Format::kInt16;

  // a and b hold two int16 entries a lane, c and the result an int32 sum. All is exact; core/bound.h says why none
  // overflows. Not by its intrinsic, which changes the type of the sums at every step: gcc 12 with -O3 then copies and
  // spills each of them, at half the speed.
  static FT_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
    asm("vpdpwssd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
  }
  static FT_INLINE Lanes products_of(Lanes sums, float row_step, const float* column_steps) {
    return _mm512_maskz_cvtepi32_ps(0xffff, (__m512i)sums) * load(column_steps) * set1(row_step);
  }
};

}  // namespace fasttriplet::cpu::FT_TIER
