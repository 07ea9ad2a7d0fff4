// The AVX-512 tier: Skylake-SP, Zen 4 and later.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/distance.h"
#include "cpu/isa/isa.h"
#include "cpu/kernels/inline.h"
#include "cpu/kernels/tier.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors never cross a function that is not inlined
#define FT_DENSE                          // screens in float32
#define FT_TIER avx512
#define FT_VEC Avx512Vec
#define FT_TILE "cpu/isa/tile_vectors-inl.h"
FT_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#include "cpu/isa/vec_avx512.h"

#include "cpu/kernels/kernels-inl.h"
FT_TARGET_END

namespace fasttriplet::cpu {
const Tier kAvx512Tier = {"avx512",
                          nullptr,
                          avx512::kLayout,
                          avx512::screen,
                          avx512::kScanKernels,
                          &avx512::kDenseKernels,
                          avx512::row_kernels<float>(),
                          avx512::row_kernels<double>()};
}  // namespace fasttriplet::cpu
#endif
