// The portable tier: what the compiler makes of four-lane vectors on any machine.
#include <type_traits>

#include "core/distance.h"
#include "cpu/inline.h"
#include "cpu/isa.h"
#include "cpu/tier.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors never cross a function that is not inlined
#define FT_TIER portable
#define FT_VEC PortableVec
#include "cpu/vec_portable.h"

// Vectors, then tiles of them, then what uses their layout: blank lines keep the order.
#include "cpu/transpose-inl.h"
#include "cpu/wide-inl.h"

#include "cpu/tile_vectors-inl.h"

#include "cpu/screen-inl.h"
#include "cpu/exact-inl.h"

namespace fasttriplet::cpu {
const Tier kPortableTier = {"portable",
                            nullptr,
                            portable::kLayout,
                            portable::screen,
                            portable::row_kernels<float>(),
                            portable::row_kernels<double>()};
}  // namespace fasttriplet::cpu
