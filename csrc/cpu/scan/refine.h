// A scan with keys as coarse as pays: where they leave too many columns to be scored it begins again with a finer tier.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "cpu/isa/isa.h"
#include "cpu/rows/pairing.h"
#include "cpu/scan/picks.h"
#include "cpu/scan/scan.h"

namespace fasttriplet::cpu {

// Questions an anchor up to which fixed point is the faster for thresholds; measured at 8192 x 128 with 3 and with 15.
// What it saves an anchor it loses again to exact scores of its questions, some ten each.
inline constexpr int64_t kFixedPointQuestions = 6;

inline const Tier& tier_for_thresholds(const Tier& tier, int64_t questions, int64_t anchors) {
  const Tier& first = threshold_tier(tier);
  const bool many = questions > kFixedPointQuestions * anchors;
  return &first != &tier && first.layout.fixed_point() && many ? *first.finer : first;
}

// Whether to go on: what a visit of the scan asks now and then.
using FineEnough = std::function<bool()>;

// Calls attempt(scan, fine_enough) until it returns true; the last time fine_enough always is. Rows of `pairing`'s
// anchors against its columns.
template <typename T, typename Attempt>
void refine(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, Picker<T>& picker, const Tier& first,
            const Parallel& parallel, Attempt&& attempt) {
  // A screen that leaves this many columns a question, or this share of the columns where that is more, is too coarse
  // for these rows. A score takes the time of some fifty products of rows, and float32 takes those
  // twice.
  constexpr int64_t kCoarse = 16, kCoarseShare = 128;
  const std::vector<int32_t> rows = pairing.anchor_rows(), columns = pairing.column_rows();
  for (const Tier* tier = &first.for_depth(batch.d, batch.distance); tier != nullptr; tier = tier->finer) {
    const Scan<T> scan(batch, survey, rows, columns, *tier, parallel);
    if (scan.prepared().too_coarse) continue;
    const bool may_give_up = tier->finer != nullptr && scan.prepared().scale != 0;
    const int64_t share = static_cast<int64_t>(columns.size()) / kCoarseShare;
    const int64_t coarse = std::max(kCoarse, share);
    picker.forget_work();
    const FineEnough fine_enough = [&picker, may_give_up, coarse] {
      return !may_give_up || picker.scored() <= coarse * (picker.queries() + 1024);
    };
    if (attempt(scan, fine_enough)) return;
  }
}

}  // namespace fasttriplet::cpu
