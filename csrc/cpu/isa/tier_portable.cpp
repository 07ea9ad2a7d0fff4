// The portable tier: what the compiler makes of four-lane vectors on any machine.
#include "core/distance.h"
#include "cpu/isa/isa.h"
#include "cpu/kernels/inline.h"
#include "cpu/kernels/tier.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors never cross a function that is not inlined
#define FT_DENSE                          // screens in float32
#define FT_TIER portable
#define FT_VEC PortableVec
#define FT_TILE "cpu/isa/tile_vectors-inl.h"
#include "cpu/isa/vec_portable.h"

#include "cpu/kernels/kernels-inl.h"

namespace fasttriplet::cpu {
const Tier kPortableTier = {"portable",
                            nullptr,
                            portable::kLayout,
                            portable::screen,
                            portable::kScanKernels,
                            &portable::kDenseKernels,
                            portable::row_kernels<float>(),
                            portable::row_kernels<double>()};
}  // namespace fasttriplet::cpu
