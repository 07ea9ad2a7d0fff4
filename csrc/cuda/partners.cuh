// Who may pair with whom beyond what labels say: asked of a pair only where the screen looks closer, and by the exact
// scan. cpu/rows/pairing.h is the same on the CPU.
#pragma once

#include "core/options.h"
#include "cuda/state.cuh"

namespace fasttriplet::cuda {

// Batch-hard's own: every two rows pair, and a row that is not finite is the hardest of all.
struct EveryPair {
  static constexpr bool kBadRowsWin = true;

  static FT_DEVICE bool allows(Search, int64_t, int64_t) { return true; }
};

// A miner's of triplets: copies of a sample never pair, nor do rows of a group, or they are no positives. A row that is
// not finite pairs with nobody; where it would take part all distances are NaN instead.
struct AllowedPairs {
  static constexpr bool kBadRowsWin = false;
  const int32_t* order;       // [N] row at each position
  const int64_t* sample_ids;  // [N] -1 for none, or null
  const int64_t* groups;      // [N] or null
  GroupsExclude groups_exclude;

  // Of the rows at two positions.
  FT_DEVICE bool allows(Search search, int64_t r, int64_t c) const {
    const int64_t i = order[r], j = order[c];
    if (sample_ids != nullptr && sample_ids[i] != -1 && sample_ids[i] == sample_ids[j]) return false;
    const bool excludes = groups != nullptr && (search == kFarthest || groups_exclude == GroupsExclude::kPairs);
    return !excludes || groups[i] != groups[j];
  }
};

}  // namespace fasttriplet::cuda
