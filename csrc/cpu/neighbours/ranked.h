// An anchor's positives in the order of its ranking, and what follows from how many negatives lie before each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/neighbours/candidates.h"
#include "cpu/neighbours/ranks.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"

namespace fasttriplet::cpu {

// The positives of a query that takes part, nearest first.
template <typename T>
void ranked_positives(const Pairing& pairing, const ExactScore<T>& score, int64_t anchor, std::vector<int32_t>& rows,
                      std::vector<double>& scores, std::vector<Neighbour>& positives) {
  rows.clear();
  const auto first = static_cast<int32_t>(pairing.first_candidate());
  pairing.for_each_positive(anchor, [&](int32_t candidate, int32_t) { rows.push_back(first + candidate); });
  scores.resize(rows.size());
  score.many(anchor, rows.data(), static_cast<int64_t>(rows.size()), scores.data());
  positives.resize(rows.size());
  for (size_t at = 0; at < rows.size(); ++at) positives[at] = {scores[at], rows[at] - first};
  std::sort(positives.begin(), positives.end());
}

// Of those, how many are before a candidate of some score: at least `from`, at most `to`.
inline int64_t positives_before(const Neighbour* positives, int64_t from, int64_t to, const Neighbour& other) {
  return std::partition_point(positives + from, positives + to,
                              [&](const Neighbour& positive) { return positive < other; }) -
         positives;
}

// A row of the result. `before` [count]: negatives before the j-th positive.
void summarise(const int64_t* before, int64_t count, int64_t positives, int64_t candidates, const RankOptions& options,
               double* row);

}  // namespace fasttriplet::cpu
