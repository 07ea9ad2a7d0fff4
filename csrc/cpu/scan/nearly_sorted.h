// Sorting what buckets have brought nearly into order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fasttriplet::cpu {

// By insertion, while that takes no more than a few moves an item.
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
