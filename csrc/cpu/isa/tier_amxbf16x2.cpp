// The AMX tier of two bfloat16 an entry: a third of the bound of int16, at three eighths of its cycles.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/distance.h"
#include "cpu/isa/isa.h"
#include "cpu/kernels/inline.h"
#include "cpu/kernels/tier.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors never cross a function that is not inlined
#define FT_TIER amxbf16x2
#define FT_VEC Avx512Vec
#define FT_FORMAT kBfloat16x2
#define FT_TILE "cpu/isa/tile_amx-inl.h"
FT_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,amx-tile,amx-bf16")
#include "cpu/isa/vec_avx512.h"

#include "cpu/kernels/kernels-inl.h"
FT_TARGET_END

namespace fasttriplet::cpu {
const Tier kAmxBf16x2Tier = {"amxbf16x2",
                             &kAvx512Tier,
                             amxbf16x2::kLayout,
                             amxbf16x2::screen,
                             amxbf16x2::kScanKernels,
                             nullptr,
                             amxbf16x2::row_kernels<float>(),
                             amxbf16x2::row_kernels<double>()};
}  // namespace fasttriplet::cpu
#endif
