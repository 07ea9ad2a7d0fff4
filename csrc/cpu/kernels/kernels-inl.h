// What every tier compiles for its instruction set, after its vectors, in the order of use. FT_TIER names the tier,
// FT_VEC its vectors and FT_TILE the file of its tile. FT_DENSE is defined where it screens in float32.
namespace fasttriplet::cpu::FT_TIER {

using Vec = FT_VEC;
using Lanes = Vec::Lanes;
using Mask = Vec::Mask;
constexpr int kLanes = Vec::kLanes;

}  // namespace fasttriplet::cpu::FT_TIER

// clang-format off
#include "cpu/kernels/wide-inl.h"
#include "cpu/kernels/transpose-inl.h"
#include FT_TILE
#include "cpu/kernels/screen-inl.h"
#include "cpu/kernels/scan-inl.h"
#include "cpu/kernels/places-inl.h"
#ifdef FT_DENSE
#include "cpu/kernels/dense-inl.h"
#include "cpu/kernels/counts-inl.h"
#include "cpu/kernels/products-inl.h"
#endif
#include "cpu/kernels/exact-inl.h"
#include "cpu/kernels/fork-inl.h"
#include "cpu/kernels/pull-inl.h"
// clang-format on

namespace fasttriplet::cpu::FT_TIER {

template <typename T>
constexpr RowKernels<T> row_kernels() {
  return {survey<T>,
          pack<T>,
          {score<RootDifference, T>, score<Difference, T>, score<UnitDifference, T>, score<Product, T>},
          {scores<RootDifference, T>, scores<Difference, T>, scores<UnitDifference, T>, scores<Product, T>},
          {gather<Difference, T>, gather<Difference, T>, gather<UnitDifference, T>, gather<Product, T>},
          {fork_gradient<Difference, T>, fork_gradient<Difference, T>, fork_gradient<UnitDifference, T>,
           fork_gradient<Product, T>},
          {pull<Difference, T>, pull<Difference, T>, pull<UnitDifference, T>, pull<Product, T>}};
}

constexpr ScanKernels kScanKernels = {kHeight, strip, smallest_above, largest, collect, place};

#ifdef FT_DENSE
constexpr DenseKernels kDenseKernels = {
    kLanes,
    {{dense_row<DenseKind::kHinge, false>, dense_row<DenseKind::kHinge, true>},
     {dense_row<DenseKind::kSoftplus, false>, dense_row<DenseKind::kSoftplus, true>},
     {dense_row<DenseKind::kWeighted, false>, dense_row<DenseKind::kWeighted, true>}},
    {softmax_row<false>, softmax_row<true>},
    {hinge_limits<false>, hinge_limits<true>},
    {hinge_counts<false>, hinge_counts<true>},
    weighted_sums,
    transposed_sums};
#endif

}  // namespace fasttriplet::cpu::FT_TIER
