#include "cpu/scan/ranks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace fasttriplet::cpu {
namespace {

// The rank-th smallest of the values, from 1. Where a smaller rank was asked for just before, what lies above it is
// enough.
float ranked(std::vector<float>& values, int64_t rank, int64_t smaller_rank = 0) {
  std::nth_element(values.begin() + smaller_rank, values.begin() + (rank - 1), values.end());
  return values[rank - 1];
}

// Where the columns of ranks `first` to `last` lie, by a sample. `low` is the smallest key - width that the first may
// have, `high` the largest key + width that the last may have. A guess, to be checked; infinite in short rows.
struct Bracket {
  float low, high;
};
Bracket sampled_bracket(const RowOfKeys& row, int64_t first, int64_t last) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Bracket bracket = {-kInfinity, kInfinity};
  if (row.count < kSampledColumns) return bracket;
  std::vector<float> keys;
  keys.reserve(row.count / kSampleStep + 1);
  float width = 0;
  for (int64_t j = 0; j < row.count; j += kSampleStep)
    if (!std::isnan(row.keys[j])) {
      keys.push_back(row.keys[j]);
      width = std::max(width, row.widths[j]);
    }
  if (keys.empty()) return bracket;
  const int64_t size = static_cast<int64_t>(keys.size());
  const auto place = [&](int64_t rank, double side) {  // three standard deviations aside of the rank in the sample
    const double share = static_cast<double>(rank) / kSampleStep, part = share / static_cast<double>(size);
    return static_cast<int64_t>(share + side * (3 * std::sqrt(share * std::max(1 - part, 0.0)) + 2));
  };
  const int64_t low = std::max<int64_t>(place(first, -1), 0), high = place(last, 1);  // three or more apart
  if (0 < low && low <= size) bracket.low = ranked(keys, low) - width;
  if (high <= size) bracket.high = ranked(keys, high, low) + width;
  return bracket;
}

}  // namespace

template <typename T>
Ranked ranked_negatives(Picker<T>& picker, Query& query, int64_t skip, int64_t last) {
  AnchorKeys& keys = query.keys;
  const RowOfKeys row = keys.row();
  int64_t below = 0;  // columns that are surely among the first `skip`
  // Ranks below `skip` are counted where they are sure to be, and scored only near the edge.
  const auto lower = [&](int32_t column) { return keys.keys[column] - keys.widths[column]; };
  const auto upper = [&](int32_t column) { return keys.keys[column] + keys.widths[column]; };
  Bracket bracket = sampled_bracket(row, skip + 1, last);
  int64_t near = 0;
  const auto collect = [&] {
    const KeyWindow window = {keys.floor(bracket.low), keys.limit(bracket.high)};
    near = keys.kernels->collect(row, &window, 1, query.found.data(), skip > 0 ? &below : nullptr);
  };
  const auto holds = [&] {  // the first wanted rank is not below the bracket, the last one not above it
    int64_t under = below, within = below;
    for (int64_t k = 0; k < near; ++k) {
      under += lower(query.found[k]) < bracket.low;
      within += upper(query.found[k]) <= bracket.high;
    }
    return under <= skip && within >= last;
  };
  collect();
  if (!holds()) {
    bracket = {-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
    collect();
  }
  std::vector<float> values(near);
  const auto ranked_near = [&](auto&& side, int64_t rank) {
    std::transform(query.found.begin(), query.found.begin() + near, values.begin(), side);
    return ranked(values, rank - below);
  };
  KeyWindow window = {-std::numeric_limits<float>::infinity(), keys.limit(ranked_near(upper, last))};
  if (skip > 0) window.floor = keys.floor(ranked_near(lower, skip + 1));
  int64_t found = 0, sure = 0;
  for (int64_t k = 0; k < near; ++k) {
    const int32_t column = query.found[k];
    if (upper(column) < window.floor)
      ++sure;
    else if (in_window(keys, column, window))
      query.found[found++] = column;
  }
  below += sure;
  std::vector<Pick> picks;
  picks.reserve(found);
  for (int64_t k = 0; k < found; ++k) picks.push_back(picker.pick_of(query, query.found[k]));
  std::sort(picks.begin(), picks.end(),
            [](const Pick& a, const Pick& b) { return goes_before(a.score, a.candidate, b.score, b.candidate); });
  picker.count_work(last, found);
  return {std::move(picks), below};
}

template Ranked ranked_negatives(Picker<float>&, Query&, int64_t, int64_t);
template Ranked ranked_negatives(Picker<double>&, Query&, int64_t, int64_t);

}  // namespace fasttriplet::cpu
