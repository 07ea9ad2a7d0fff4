// Four float32 lanes as GCC and Clang vectors: SSE2, NEON or whatever the target has. No fused multiply-add.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels/inline.h"

namespace fasttriplet::cpu::FT_TIER {

struct PortableVec {
  typedef float Lanes __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr Format kFormat = Format::kFloat32;

  static FT_INLINE Lanes load(const float* p) {
    Lanes v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static FT_INLINE void store(float* p, Lanes v) { std::memcpy(p, &v, sizeof v); }
  static FT_INLINE Lanes set1(float x) { return Lanes{x, x, x, x}; }
  static FT_INLINE Lanes zero() { return Lanes{}; }
  static FT_INLINE Lanes add(Lanes a, Lanes b) { return a + b; }
  static FT_INLINE Lanes negate(Lanes a) { return -a; }
  static FT_INLINE Lanes subtract(Lanes a, Lanes b) { return a - b; }
  static FT_INLINE Lanes smaller(Lanes a, Lanes b) { return a < b ? a : b; }
  static FT_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return a * b + c; }

  // Entries of a and b in turn: of the lower halves, of the upper halves.
  static FT_INLINE Lanes zip_low(Lanes a, Lanes b) { return Lanes{a[0], b[0], a[1], b[1]}; }
  static FT_INLINE Lanes zip_high(Lanes a, Lanes b) { return Lanes{a[2], b[2], a[3], b[3]}; }

  // Lanes where a >= b, false for NaN.
  static FT_INLINE Mask at_least(Lanes a, Lanes b) { return a >= b; }
  static FT_INLINE Mask either(Mask a, Mask b) { return a | b; }
  static FT_INLINE Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }
  static FT_INLINE Lanes root(Lanes a) {
    return Lanes{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
  }
  static FT_INLINE Mask differ(Mask a, Mask b) { return a ^ b; }
  static FT_INLINE Mask except(Mask a, Mask b) { return a & ~b; }
  static FT_INLINE Mask both(Mask a, Mask b) { return a & b; }
  static FT_INLINE Mask none() { return Mask{}; }
  static FT_INLINE Lanes choose(Mask m, Lanes yes, Lanes no) { return m ? yes : no; }
  static FT_INLINE unsigned bits(Mask m) { return (m[0] & 1u) | (m[1] & 2u) | (m[2] & 4u) | (m[3] & 8u); }

  typedef double Part __attribute__((vector_size(16)));  // of wide-inl.h
  static FT_INLINE Part widen(const float* p) { return Part{p[0], p[1]}; }
  static FT_INLINE void narrow(float* p, Part v) {
    p[0] = static_cast<float>(v[0]);
    p[1] = static_cast<float>(v[1]);
  }
};

}  // namespace fasttriplet::cpu::FT_TIER
