// Sorting numbers by buckets, equal steps over their range, and what lies in one bucket by insertion.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace fasttriplet::cpu {

struct Range {
  float least, most;
};

inline Range range_of(const float* keys, int64_t count) {
  constexpr int64_t kChains = 8;  // one would wait for itself
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float least[kChains], most[kChains];
  std::fill_n(least, kChains, kInfinity);
  std::fill_n(most, kChains, -kInfinity);
  const auto take = [&](int64_t p, int64_t chain) {
    least[chain] = std::min(least[chain], keys[p]);
    most[chain] = std::max(most[chain], keys[p]);
  };
  int64_t p = 0;
  for (; p + kChains <= count; p += kChains)
    for (int64_t chain = 0; chain < kChains; ++chain) take(p + chain, chain);
  for (; p < count; ++p) take(p, 0);
  return {*std::min_element(least, least + kChains), *std::max_element(most, most + kChains)};
}

// Calls put(place, item) for items by bucket, `bucket_of` them, from 0 to `buckets` less 1, and in their order within
// one. `begin` [buckets + 2] then has the places before each bucket and, twice, their end.
template <typename Put>
void place_by_bucket(const std::vector<int32_t>& bucket_of, int64_t buckets, std::vector<int32_t>& begin, Put&& put) {
  begin.assign(buckets + 2, 0);  // counts stand two later, places one: putting moves them to where they belong
  for (const int32_t bucket : bucket_of) ++begin[bucket + 2];
  for (int64_t bucket = 0; bucket < buckets; ++bucket) begin[bucket + 2] += begin[bucket + 1];
  for (size_t item = 0; item < bucket_of.size(); ++item) put(begin[bucket_of[item] + 1]++, item);
}

// By insertion, while that takes no more than a few moves an item; else anew.
template <typename Item, typename Before>
void sort_nearly_sorted(std::vector<Item>& items, Before&& before) {
  constexpr int64_t kMoves = 8;
  const auto count = static_cast<int64_t>(items.size());
  int64_t moves = kMoves * count;
  for (int64_t at = 1; at < count; ++at) {
    const Item moved = items[at];
    int64_t to = at;
    for (; to > 0 && before(moved, items[to - 1]); --to) items[to] = items[to - 1];
    items[to] = moved;
    moves -= at - to;
    if (moves < 0) return std::sort(items.begin(), items.end(), before);
  }
}

}  // namespace fasttriplet::cpu
