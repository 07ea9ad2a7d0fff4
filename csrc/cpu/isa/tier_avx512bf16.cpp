// The AVX-512 tier with bfloat16 products: Cooper Lake, Zen 4 and later.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/distance.h"
#include "cpu/isa/isa.h"
#include "cpu/kernels/inline.h"
#include "cpu/kernels/tier.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors never cross a function that is not inlined
#define FT_TIER avx512bf16
#define FT_VEC Avx512Bf16Vec
#define FT_TILE "cpu/isa/tile_vectors-inl.h"
FT_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")
#include "cpu/isa/vec_avx512bf16.h"

#include "cpu/kernels/kernels-inl.h"
FT_TARGET_END

namespace fasttriplet::cpu {
const Tier kAvx512Bf16Tier = {"avx512bf16",
                              &kAvx512Tier,
                              avx512bf16::kLayout,
                              avx512bf16::screen,
                              avx512bf16::kScanKernels,
                              nullptr,
                              avx512bf16::row_kernels<float>(),
                              avx512bf16::row_kernels<double>()};
}  // namespace fasttriplet::cpu
#endif
