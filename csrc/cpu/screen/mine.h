// Batch-hard mining on the CPU: for each anchor the farthest positive and the nearest negative, exactly, in O(N * D)
// memory.
#pragma once

#include <cstdint>

#include "cpu/rows/batch.h"

namespace fasttriplet::cpu {

// The stages of a call, in their order.
//   prepare    survey of the rows, classes and equal rows, packing for the screen
//   positives  exact scores within small classes
//   screen     low-precision products, tests, and lists that filled up
//   settle     exact scores of what the screen left
//   write      indices and distances out, rows that are not finite
enum class Stage { kPrepare, kPositives, kScreen, kSettle, kWrite };
inline constexpr int kStages = static_cast<int>(Stage::kWrite) + 1;

struct MineReport {
  int64_t representatives = 0;   // rows the screen multiplied
  int64_t exact_negatives = 0;   // exact scores taken to settle the nearest negatives
  int64_t exact_positives = 0;   // exact scores taken for positives
  double seconds[kStages] = {};  // of the calling thread's time, waiting for others included
};

struct MineOutput {
  int64_t* positives;  // [N], -1 where there is none
  int64_t* negatives;  // [N], likewise
  double* distances;   // [2, N] to the positive and to the negative, NaN where there is none
};

// Returns whether every row is finite. A row that is not is at distance NaN from every row, and NaN is the hardest of
// all. `labels` [N]. `report` may be null.
template <typename T>
bool mine_batch_hard(const Batch<T>& batch, const int64_t* labels, const Parallel& parallel, const MineOutput& output,
                     MineReport* report);

}  // namespace fasttriplet::cpu
