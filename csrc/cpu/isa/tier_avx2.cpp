// The AVX2 tier: Haswell, Zen and later.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/distance.h"
#include "cpu/isa/isa.h"
#include "cpu/kernels/inline.h"
#include "cpu/kernels/tier.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors never cross a function that is not inlined
#define FT_DENSE                          // screens in float32
#define FT_TIER avx2
#define FT_VEC Avx2Vec
#define FT_TILE "cpu/isa/tile_vectors-inl.h"
FT_TARGET_BEGIN("avx2,fma")
#include "cpu/isa/vec_avx2.h"

#include "cpu/kernels/kernels-inl.h"
FT_TARGET_END

namespace fasttriplet::cpu {
const Tier kAvx2Tier = {"avx2",
                        nullptr,
                        avx2::kLayout,
                        avx2::screen,
                        avx2::kScanKernels,
                        &avx2::kDenseKernels,
                        avx2::row_kernels<float>(),
                        avx2::row_kernels<double>()};
}  // namespace fasttriplet::cpu
#endif
