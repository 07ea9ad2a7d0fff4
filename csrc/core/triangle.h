// The order in which block pairs of the upper triangle are visited.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/shared.h"

namespace fasttriplet {

// Block pairs (I, J), I <= J, by growing J - I: every anchor meets some candidates early, and thresholds drop early.
struct BlockPair {
  int64_t i, j;
};

// Number `task` of the blocks (blocks + 1) / 2 pairs.
FT_SHARED inline BlockPair block_pair(int64_t task, int64_t blocks) {
  // Before offset o lie o blocks - o (o - 1) / 2 pairs; the root is only a first guess.
  const double b = 2.0 * static_cast<double>(blocks) + 1;
  const double under_root = b * b - 8.0 * static_cast<double>(task);
  const float root = std::sqrt(static_cast<float>(under_root > 0 ? under_root : 0));  // a GPU's float64 roots are slow
  int64_t offset = static_cast<int64_t>((b - static_cast<double>(root)) / 2);
  if (offset >= blocks) offset = blocks - 1;
  const auto before = [&](int64_t o) { return o * blocks - o * (o - 1) / 2; };
  while (offset > 0 && before(offset) > task) --offset;
  while (before(offset + 1) <= task) ++offset;
  const int64_t i = task - before(offset);
  return {i, i + offset};
}

}  // namespace fasttriplet
