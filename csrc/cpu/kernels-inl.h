// What every tier compiles for its instruction set, after its vectors: FT_TIER names the tier, FT_VEC its vectors and
// FT_TILE the file of its tile. In the order of use.
namespace fasttriplet::cpu::FT_TIER {

using Vec = FT_VEC;
using Lanes = Vec::Lanes;
using Mask = Vec::Mask;
constexpr int kLanes = Vec::kLanes;

}  // namespace fasttriplet::cpu::FT_TIER

// clang-format off
#include "cpu/wide-inl.h"
#include "cpu/transpose-inl.h"
#include FT_TILE
#include "cpu/screen-inl.h"
#include "cpu/exact-inl.h"
// clang-format on
