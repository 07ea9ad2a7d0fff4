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

// By buckets: sorting by comparisons is a third of the time of large classes.
class SortedNeighbours {
 public:
  const std::vector<Neighbour>& of(const std::vector<Neighbour>& unsorted);

 private:
  std::vector<int32_t> bucket_of_, begin_;
  std::vector<Neighbour> sorted_;
};

template <typename T>
class RankedPositives {
 public:
  RankedPositives(const Pairing& pairing, const ExactScore<T>& score) : pairing_(pairing), score_(score) {}

  // Of a query that takes part, nearest first; until the next call.
  const std::vector<Neighbour>& of(int64_t anchor) {
    rows_.clear();
    const auto first = static_cast<int32_t>(pairing_.first_candidate());
    pairing_.for_each_positive(anchor, [&](int32_t candidate, int32_t) { rows_.push_back(first + candidate); });
    scores_.resize(rows_.size());
    score_.many(anchor, rows_.data(), static_cast<int64_t>(rows_.size()), scores_.data());
    unsorted_.resize(rows_.size());
    for (size_t at = 0; at < rows_.size(); ++at) unsorted_[at] = {scores_[at], rows_[at] - first};
    return sorted_.of(unsorted_);
  }

 private:
  const Pairing& pairing_;
  const ExactScore<T>& score_;
  std::vector<int32_t> rows_;
  std::vector<double> scores_;
  std::vector<Neighbour> unsorted_;
  SortedNeighbours sorted_;
};

// Of positives, nearest first, how many are before a candidate of some score: at least `from`, at most `to`.
inline int64_t positives_before(const Neighbour* positives, int64_t from, int64_t to, const Neighbour& other) {
  return std::partition_point(positives + from, positives + to,
                              [&](const Neighbour& positive) { return positive < other; }) -
         positives;
}

// A row of the result. `before` [count]: negatives before the j-th positive.
void summarise(const int64_t* before, int64_t count, int64_t positives, int64_t candidates, const RankOptions& options,
               double* row);

}  // namespace fasttriplet::cpu
