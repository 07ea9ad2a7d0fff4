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

int64_t take_pairs(const std::vector<ColumnRange>& ranges, float* keys, int32_t* found) {
  int64_t count = 0;
  for (const ColumnRange& range : ranges)
    for (int64_t column = range.begin; column < range.end; ++column) {
      if (!std::isnan(keys[column])) found[count++] = static_cast<int32_t>(column);
      keys[column] = kNan;
    }
  return count;
}

Partners::Partners(const Pairing& pairing, const std::vector<int32_t>& columns, bool rows_are_anchors,
                   bool columns_are_anchors)
    : pairing_(pairing),
      columns_(columns),
      rows_are_anchors_(rows_are_anchors),
      columns_are_anchors_(columns_are_anchors),
      has_many_(pairing.anchors(), 0) {
  const Groups& groups = pairing.columns();
  std::vector<int8_t> of_kind(groups.classes(), -1);  // anchors of one kind have the same positives
  for (int64_t anchor = 0; anchor < pairing.anchors(); ++anchor) {
    if (!pairing.takes_part(anchor)) continue;
    const int32_t own = pairing.kind_of(anchor);
    if (own >= 0 && of_kind[own] >= 0) {
      has_many_[anchor] = static_cast<uint8_t>(of_kind[own]);
      continue;
    }
    int64_t positives = 0;
    pairing.for_each_positive_kind(anchor, [&](int32_t kind) {
      positives += groups.representative_begin[kind + 1] - groups.representative_begin[kind];
    });
    has_many_[anchor] = positives > kPairwiseClass;
    if (own >= 0) of_kind[own] = static_cast<int8_t>(has_many_[anchor]);
  }
}

void Partners::sort_out(int32_t row, float* keys, Positives& positives) const {
  positives.few.clear();
  positives.many.clear();
  if (rows_are_anchors_)
    of_anchor(row, keys, positives);
  else
    of_candidate(row, keys, positives);
}

void Partners::of_anchor(int32_t row, float* keys, Positives& positives) const {
  const Groups& groups = pairing_.columns();
  pairing_.for_each_kind_but_negatives(row, [&](int32_t kind) {
    const int64_t begin = groups.representative_begin[kind], end = groups.representative_begin[kind + 1];
    if (begin == end) return;
    if (pairing_.role(row, kind) != Role::kPositive) {
      std::fill(keys + begin, keys + end, kNan);
      return;
    }
    const bool many = has_many_[row] != 0 && (!columns_are_anchors_ || has_many_[columns_[begin]] != 0);
    append(begin, end, many ? positives.many : positives.few);
  });
  pairing_.for_each_own(row, [&](int64_t own) {
    if (pairing_.column_of(own) >= 0) keys[pairing_.column_of(own)] = kNan;
  });
}

void Partners::of_candidate(int32_t row, float* keys, Positives& positives) const {
  const int64_t candidate = row - pairing_.first_candidate(), count = static_cast<int64_t>(columns_.size());
  const int32_t kind = pairing_.columns().class_of[candidate];
  Role role = Role::kNone;
  int32_t role_of = -1;  // the anchors' kind it is of; where their kind has no candidates they differ
  for (int64_t column = 0; column < count; ++column) {
    const int32_t anchor = columns_[column], anchor_kind = pairing_.kind_of(anchor);
    if (anchor_kind < 0 || anchor_kind != role_of) role = pairing_.role(anchor, kind);
    role_of = anchor_kind;
    if (role == Role::kPositive) append(column, column + 1, has_many_[anchor] != 0 ? positives.many : positives.few);
    if (role == Role::kNone || pairing_.is_own(anchor, candidate)) keys[column] = kNan;
  }
}

void PositiveKeys::take(const std::vector<ColumnRange>& positives, float* keys) {
  hull_ = {0, 0};
  if (positives.empty()) return;
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
