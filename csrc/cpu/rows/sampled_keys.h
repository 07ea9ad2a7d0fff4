// A first bound for every anchor, from its products with a few candidates: else most of what passes a test would do so
// for being among the nearest so far.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/bound.h"
#include "cpu/kernels/tier.h"
#include "cpu/rows/prepare.h"

namespace fasttriplet::cpu {

// `samples` of the candidates at places [first, first + count) of the prepared rows, whole panels of them.
struct SampledKeys {
  const Tier& tier;
  const Prepared& prepared;
  const std::vector<RowTerms>& terms;  // [prepared rows]
  int64_t first, count, samples;

  // The place of the first sample of anchors from `begin` on: far from them where they are candidates themselves.
  int64_t begin(int64_t anchors_begin) const {
    const int64_t width = tier.layout.width, last = (count - samples) / width * width;
    return first + std::min((anchors_begin + count / 2) % count / width * width, last);
  }
  // keys [a panel of rows, samples]: the upper key, less the anchor's own terms, of the rows [begin, begin + rows) of a
  // panel.
  void write(int64_t anchors_begin, int64_t rows, float* keys) const;
  // The bound that such a key is for its anchor.
  static double bound(const RowTerms& anchor, float key) {
    const double value = static_cast<double>(key), rounding = 2 * kUnitRoundoff * std::fabs(value);
    return anchor.anchor + anchor.anchor_slack + value + rounding;
  }
};

}  // namespace fasttriplet::cpu
