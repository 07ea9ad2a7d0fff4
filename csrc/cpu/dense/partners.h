// Which columns of a row of keys are its positives, its negatives, or no pair of it at all.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/pairing.h"

namespace fasttriplet::cpu {

struct ColumnRange {
  int64_t begin, end;
};

// Lists the pairs of the ranges in `found`, returns how many there are, and leaves NaN in place of their keys.
int64_t take_pairs(const std::vector<ColumnRange>& ranges, float* keys, int32_t* found);

// A row's positives: ranges of columns outside of which there is none and inside of which no negative, ascending.
struct Positives {
  std::vector<ColumnRange> few, many;  // of anchors with few positives, and of those with many
};

// Of a pass of all rows against all columns, the anchors of which are the rows, the columns or both.
//
// A pair is among the many where each anchor of the two has more than kPairwiseClass positives. That is the same in
// every pass, and so is how its distance is found: a softmax of large distances has no use for two of them that differ
// by the error of a key.
class Partners {
 public:
  Partners(const Pairing& pairing, const std::vector<int32_t>& columns, bool rows_are_anchors,
           bool columns_are_anchors);

  // The keys of what is no pair become NaN.
  void sort_out(int32_t row, float* keys, Positives& positives) const;

 private:
  void of_anchor(int32_t row, float* keys, Positives& positives) const;
  void of_candidate(int32_t row, float* keys, Positives& positives) const;

  const Pairing& pairing_;
  const std::vector<int32_t>& columns_;  // rows of the batch
  const bool rows_are_anchors_, columns_are_anchors_;
  std::vector<uint8_t> has_many_;  // [anchors]
};

// A row's positives taken out of its keys, so that the kernels see them by themselves. One buffer for many rows.
class PositiveKeys {
 public:
  // Rows of `stride` keys, a multiple of `lanes`.
  PositiveKeys(int64_t stride, int64_t lanes) : keys_(stride), lanes_(lanes) {}

  // Leaves NaN in their place.
  void take(const std::vector<ColumnRange>& positives, float* keys);
  // Writes what has become of them to their places.
  void put_back(const std::vector<ColumnRange>& positives, float* keys) const;

  float* keys() { return keys_.data(); }
  // Columns of the vectors that hold them: the keys before and behind are not to be looked at.
  ColumnRange hull() const { return hull_; }

 private:
  std::vector<float> keys_;  // [stride] NaN in the hull where a column is no positive
  int64_t lanes_;
  ColumnRange hull_ = {0, 0};
};

}  // namespace fasttriplet::cpu
