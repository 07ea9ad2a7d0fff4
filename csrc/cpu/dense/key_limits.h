// The keys on either side of which a pair's distance lies below a number, or above it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/bound.h"
#include "cpu/dense/dense.h"

namespace fasttriplet::cpu {

// The keys up to which a distance surely is, and perhaps is, below that of a positive plus `margin`.
struct KeyLimits {
  float surely, perhaps;
};

inline KeyLimits limits_of(double positive, double margin, const KeyUnits& units, double width) {
  const double threshold = positive + margin;
  const double rounding = 0x1p-48 * (std::fabs(positive) + std::fabs(margin));  // of d_ap - d_an + margin, and more
  const bool product = units.distance == Distance::kInnerProduct;
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  if (!product && threshold + rounding <= 0) return {kNever, kNever};
  const double low = product ? threshold - rounding : std::max(threshold - rounding, 0.0);
  const double least = units.key(low), most = units.key(threshold + rounding);
  return {float_below(least - width - 0x1p-40 * std::fabs(least)),
          float_above(most + width + 0x1p-40 * std::fabs(most))};
}

}  // namespace fasttriplet::cpu
