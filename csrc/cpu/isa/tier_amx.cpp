// The AMX tier: bfloat16 products by the tile unit, the tests by AVX-512. Sapphire Rapids and later.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/distance.h"
#include "cpu/isa/isa.h"
#include "cpu/kernels/inline.h"
#include "cpu/kernels/tier.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors never cross a function that is not inlined
#define FT_TIER amx
#define FT_VEC Avx512Vec
#define FT_FORMAT kBfloat16
#define FT_TILE "cpu/isa/tile_amx-inl.h"
FT_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,amx-tile,amx-bf16")
#include "cpu/isa/vec_avx512.h"

#include "cpu/kernels/kernels-inl.h"
FT_TARGET_END

namespace fasttriplet::cpu {
const Tier kAmxTier = {"amx",
                       &kAmxBf16x2Tier,
                       amx::kLayout,
                       amx::screen,
                       amx::kScanKernels,
                       nullptr,
                       amx::row_kernels<float>(),
                       amx::row_kernels<double>()};
}  // namespace fasttriplet::cpu
#endif
