// One anchor's keys in bins, so that a question about a short stretch of them costs the few columns there and not a
// pass over all: O(M) once, and less than sorting.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/scan/scan.h"

namespace fasttriplet::cpu {

// The columns of a row by key - width, in bins of equal steps; NaN is left out. A bin that many columns share is sorted
// once it is asked for: whatever the keys are, a question costs what it finds and a search.
class BinnedKeys {
 public:
  // The keys must stay as they are while they are asked for.
  void bin(const AnchorKeys& keys);

  // Calls visit(column) for every column with key + width >= floor and key - width <= limit, where visit returns the
  // limit from there on, which may not grow. Neither is NaN.
  template <typename Visit>
  void for_each_between(float floor, float limit, Visit&& visit) {
    if (columns_.empty()) return;
    int32_t number = bin_of(floor);
    while (number > 0 && bins_[number - 1].highest >= floor) --number;
    for (; number <= bin_of(limit); ++number) {
      int32_t at = begin_of(number);
      const int32_t end = bins_[number].end;
      const bool searched = end - at > kSearched;
      if (searched) {
        if (!sorted_[number]) sort(number);
        at = static_cast<int32_t>(std::lower_bound(highest_.begin() + at, highest_.begin() + end, floor) -
                                  highest_.begin());
      }
      for (; at < end; ++at) {
        const int32_t column = columns_[at];
        if (lower(column) > limit) {
          if (searched) return;
          continue;
        }
        if (upper(column) >= floor) limit = visit(column);
      }
    }
  }

 private:
  struct Bin {
    int32_t end;    // of its columns
    float highest;  // key + width of all columns up to there
  };
  static constexpr int32_t kSearched = 32;  // columns of a bin from which on a search pays

  // Never falls while `lower` rises.
  int32_t bin_of(float lower) const {
    const float place = (lower - low_) * per_unit_;
    return place > 0 ? static_cast<int32_t>(std::min(place, last_)) : 0;
  }
  int32_t begin_of(int32_t number) const { return number == 0 ? 0 : bins_[number - 1].end; }
  float lower(int32_t column) const { return keys_[column] - widths_[column]; }
  float upper(int32_t column) const { return keys_[column] + widths_[column]; }
  void choose_steps(int64_t count);
  void sort(int32_t number);

  const float *keys_ = nullptr, *widths_ = nullptr;
  float low_ = 0, per_unit_ = 0, last_ = 0;  // last_ is the number of the last bin
  std::vector<Bin> bins_;
  std::vector<uint8_t> sorted_;    // by bin
  std::vector<int32_t> columns_;   // by bin
  std::vector<float> highest_;     // by place in columns_, of sorted bins: key + width of the bin's up to there
  std::vector<int32_t> bin_of_;    // by column, -1 where it is left out
  std::vector<float> sample_;
};

}  // namespace fasttriplet::cpu
