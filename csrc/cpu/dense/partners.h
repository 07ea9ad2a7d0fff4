// Which columns of a row of keys are its positives, its negatives, or no pair of it at all.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/pairing.h"

namespace fasttriplet::cpu {

struct ColumnRange {
  int64_t begin, end;
};

inline int64_t columns_in(const std::vector<ColumnRange>& ranges) {
  int64_t total = 0;
  for (const ColumnRange& range : ranges) total += range.end - range.begin;
  return total;
}

// Lists the pairs of the ranges in `found`, returns how many there are, and leaves NaN in place of their keys.
int64_t take_few(const std::vector<ColumnRange>& ranges, float* keys, int32_t* found);

// Of a pass of all rows against all columns, the anchors of which are the rows, the columns or both.
class Partners {
 public:
  Partners(const Pairing& pairing, const std::vector<int32_t>& columns, bool rows_are_anchors)
      : pairing_(pairing), columns_(columns), rows_are_anchors_(rows_are_anchors) {}

  // The keys of what is no pair become NaN; `positives` becomes the ranges outside of which there is no positive and
  // inside of which no negative, ascending.
  void sort_out(int32_t row, float* keys, std::vector<ColumnRange>& positives) const;

 private:
  void of_anchor(int32_t row, float* keys, std::vector<ColumnRange>& positives) const;
  void of_candidate(int32_t row, float* keys, std::vector<ColumnRange>& positives) const;

  const Pairing& pairing_;
  const std::vector<int32_t>& columns_;  // rows of the batch
  const bool rows_are_anchors_;
};

// A row's positives taken out of its keys, so that the kernels see them by themselves. One buffer for many rows.
class PositiveKeys {
 public:
  // Rows of `stride` keys, a multiple of `lanes`.
  PositiveKeys(int64_t stride, int64_t lanes) : keys_(stride), lanes_(lanes) {}

  // Leaves NaN in their place. There is at least one range.
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
