// Rows grouped by label and by value, in O(N * D).
//
// Rows that are equal in value and label are interchangeable but for their index, and ties go to the lowest index. So
// one representative stands for all of them in every search. Without this, a batch of few distinct rows would make
// every pair a tie, and each tie has to be scored exactly.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/batch.h"

namespace fasttriplet::cpu {

struct Groups {
  // Labels as dense classes, numbered by first appearance.
  std::vector<int32_t> class_of;     // [N]
  std::vector<int32_t> class_begin;  // [C + 1] into members
  std::vector<int32_t> members;      // [N] by class, ascending in each
  int32_t classes() const { return static_cast<int32_t>(class_begin.size()) - 1; }

  // Representatives of the finite rows, by class, then by index.
  std::vector<int32_t> representative_of;     // [N], -1 where the row is not finite
  std::vector<int32_t> source;                // [M] lowest row of the representative's set
  std::vector<int32_t> twin;                  // [M] the next row of the set, -1 where there is none
  std::vector<int32_t> representative_class;  // [M] ascending
  std::vector<int32_t> representative_begin;  // [C + 1] into [M]
  // Of all rows of one value only the lowest, and the lowest of another class than that one's, can win as a negative.
  std::vector<uint8_t> may_be_negative;  // [M]
  int64_t representatives() const { return static_cast<int64_t>(source.size()); }
};

// Positives in classes up to this many representatives are scored pair by pair, about n_c D / 2 float64 operations an
// anchor. Of larger classes a screen leaves the few that can be the extreme.
inline constexpr int32_t kPairwiseClass = 48;

// Whether rows of one class and one value share a representative, or each row has its own.
enum class EqualRows { kMerged, kApart };

// Rows that are not finite by the survey have no representative.
template <typename T>
Groups group_rows(const Batch<T>& batch, const int64_t* labels, const Survey& survey, EqualRows equal_rows);

}  // namespace fasttriplet::cpu
