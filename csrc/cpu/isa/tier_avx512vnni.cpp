// The AVX-512 tier with int8 products: Cascade Lake, Zen 4 and later.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/distance.h"
#include "cpu/isa/isa.h"
#include "cpu/kernels/inline.h"
#include "cpu/kernels/tier.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors never cross a function that is not inlined
#define FT_TIER avx512vnni
#define FT_VEC Avx512VnniVec
#define FT_TILE "cpu/isa/tile_vectors-inl.h"
FT_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma")
#include "cpu/isa/vec_avx512vnni.h"

#include "cpu/kernels/kernels-inl.h"
FT_TARGET_END

namespace fasttriplet::cpu {
const Tier kAvx512VnniTier = {"avx512vnni",
                              &kAvx512Int16Tier,
                              avx512vnni::kLayout,
                              avx512vnni::screen,
                              avx512vnni::kScanKernels,
                              nullptr,
                              avx512vnni::row_kernels<float>(),
                              avx512vnni::row_kernels<double>()};
}  // namespace fasttriplet::cpu
#endif
