// What the ranking of every query's candidates says, without a ranking: the rank of a positive is one more than the
// candidates before it, and negatives are counted, not sorted.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"

namespace fasttriplet::cpu {

enum class RankWay { kQuicker, kWalk, kRows };

struct RankOptions {
  std::vector<int64_t> at;  // ranks that are asked about
  bool count_missing;       // whether positives that are not finite count, though they are at no rank
  RankWay way = RankWay::kQuicker;

  int64_t columns() const { return kWhole + 2 * static_cast<int64_t>(at.size()); }
  static constexpr int64_t kWhole = 7;
};

// table [anchors, columns]: positives; the ranks of the nearest and of the farthest; the sum of precisions at the ranks
// of all positives, and at those up to their number; how many those are; candidates; positives up to each rank of `at`,
// and the sums of precisions over those (fasttriplet/retrieval/ranks.py). Ranks are by distance and then index.
template <typename T>
void retrieval_ranks(const Batch<T>& batch, const PairingInput& input, const RankOptions& options,
                     const Parallel& parallel, double* table);

// Ways to count, of `counts` [anchors] positives of those that take part, which has them both: see ranks.cpp.
struct RankTask {
  const Survey& survey;
  const Pairing& pairing;
  const Parallel& parallel;
  const std::vector<int64_t>& positives;   // [anchors]
  const std::vector<int64_t>& relevant;    // [anchors] those that count
  const std::vector<int64_t>& candidates;  // [anchors]
  const RankOptions& options;
  double* table;
};
// By a walk over pairs, where few negatives are nearer than an anchor's farthest positive. Keeps all positives.
template <typename T>
void rank_by_walk(const Batch<T>& batch, const RankTask& task);
// By whole rows of keys.
template <typename T>
void rank_by_rows(const Batch<T>& batch, const RankTask& task);

}  // namespace fasttriplet::cpu
