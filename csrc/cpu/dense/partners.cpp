#include "cpu/dense/partners.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fasttriplet::cpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

void append(int64_t begin, int64_t end, std::vector<ColumnRange>& ranges) {
  if (begin == end) return;
  if (!ranges.empty() && ranges.back().end == begin)
    ranges.back().end = end;
  else
    ranges.push_back({begin, end});
}

}  // namespace

int64_t take_few(const std::vector<ColumnRange>& ranges, float* keys, int32_t* found) {
  int64_t count = 0;
  for (const ColumnRange& range : ranges)
    for (int64_t column = range.begin; column < range.end; ++column) {
      if (!std::isnan(keys[column])) found[count++] = static_cast<int32_t>(column);
      keys[column] = kNan;
    }
  return count;
}

void Partners::sort_out(int32_t row, float* keys, std::vector<ColumnRange>& positives) const {
  positives.clear();
  if (rows_are_anchors_)
    of_anchor(row, keys, positives);
  else
    of_candidate(row, keys, positives);
}

void Partners::of_anchor(int32_t row, float* keys, std::vector<ColumnRange>& positives) const {
  const Groups& groups = pairing_.columns();
  pairing_.for_each_kind_but_negatives(row, [&](int32_t kind) {
    const int64_t begin = groups.representative_begin[kind], end = groups.representative_begin[kind + 1];
    if (pairing_.role(row, kind) == Role::kPositive)
      append(begin, end, positives);
    else
      std::fill(keys + begin, keys + end, kNan);
  });
  pairing_.for_each_own(row, [&](int64_t own) {
    if (pairing_.column_of(own) >= 0) keys[pairing_.column_of(own)] = kNan;
  });
}

void Partners::of_candidate(int32_t row, float* keys, std::vector<ColumnRange>& positives) const {
  const int64_t candidate = row - pairing_.first_candidate(), count = static_cast<int64_t>(columns_.size());
  const int32_t kind = pairing_.columns().class_of[candidate];
  Role role = Role::kNone;
  int32_t role_of = -1;  // the anchors' kind it is of; where their kind has no candidates they differ
  for (int64_t column = 0; column < count; ++column) {
    const int32_t anchor = columns_[column], anchor_kind = pairing_.kind_of(anchor);
    if (anchor_kind < 0 || anchor_kind != role_of) role = pairing_.role(anchor, kind);
    role_of = anchor_kind;
    if (role == Role::kPositive) append(column, column + 1, positives);
    if (role == Role::kNone || pairing_.is_own(anchor, candidate)) keys[column] = kNan;
  }
}

void PositiveKeys::take(const std::vector<ColumnRange>& positives, float* keys) {
  hull_ = {positives.front().begin / lanes_ * lanes_, (positives.back().end + lanes_ - 1) / lanes_ * lanes_};
  std::fill(keys_.begin() + hull_.begin, keys_.begin() + hull_.end, kNan);
  for (const ColumnRange& range : positives) {
    std::copy(keys + range.begin, keys + range.end, keys_.begin() + range.begin);
    std::fill(keys + range.begin, keys + range.end, kNan);
  }
}

void PositiveKeys::put_back(const std::vector<ColumnRange>& positives, float* keys) const {
  for (const ColumnRange& range : positives)
    std::copy(keys_.begin() + range.begin, keys_.begin() + range.end, keys + range.begin);
}

}  // namespace fasttriplet::cpu
