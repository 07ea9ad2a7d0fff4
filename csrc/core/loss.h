// From the mined distances to the loss of each anchor, its slope and the reduction: O(N), in float64.
//
//   loss = max(d_ap - d_an + margin, 0)      slope = 1 where the loss is above zero, else 0
//   loss = log(1 + exp(d_ap - d_an))         slope = 1 / (1 + exp(d_an - d_ap))
//
// Where d_ap - d_an, or with the margin their sum, leaves float64's range, towards either end, both are NaN: an
// infinite loss would go with a slope of 1, and a triplet of which nothing is known must not count as well apart.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/options.h"
#include "core/shared.h"

namespace fasttriplet {

struct AnchorLoss {
  double loss;
  double slope;  // d loss / d d_ap = -d loss / d d_an
};

FT_SHARED inline AnchorLoss unknown_loss() {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  return {kNan, kNan};
}

FT_SHARED inline AnchorLoss hinge(double difference, double margin) {
  const double loss = difference + margin;
  if (!std::isfinite(loss)) return unknown_loss();
  return loss > 0 ? AnchorLoss{loss, 1.0} : AnchorLoss{0.0, 0.0};
}

// The softplus is above zero down to this difference, exclusively: ln 2^-1075, of which exp is rounded to zero.
inline constexpr double kSoftplusVanishes = -745.1332191019412;

// exp only of what is not above zero, so that it does not overflow.
FT_SHARED inline AnchorLoss softplus(double difference) {
  const double decay = std::exp(-std::fabs(difference));
  const double loss = (difference > 0 ? difference : 0) + std::log1p(decay);
  if (!std::isfinite(difference)) return unknown_loss();
  return {loss, difference >= 0 ? 1 / (1 + decay) : decay / (1 + decay)};
}

// Whether an anchor counts, given what it has; a missing positive is at distance zero where it counts.
FT_SHARED inline bool anchor_counts(bool has_positive, bool has_negative, OnMissing on_missing) {
  return has_negative && (has_positive || on_missing == OnMissing::kZero);
}

// What an anchor brings to the sum; zero where it does not count. `poisoned`: some row is not finite; what counts and
// every slope become NaN.
FT_SHARED inline AnchorLoss anchor_loss(bool counts, bool has_positive, double to_positive, double to_negative,
                                        const LossOptions& options, bool poisoned) {
  AnchorLoss anchor{0, 0};
  if (counts) {
    const double difference = (has_positive ? to_positive : 0.0) - to_negative;
    anchor = options.soft_margin ? softplus(difference) : hinge(difference, options.margin);
  }
  if (!poisoned) return anchor;
  return {counts ? unknown_loss().loss : 0, unknown_loss().slope};
}

// Writes losses [N] (before reduction; 0 where the anchor does not count) and slopes [N], the slopes already divided by
// the reduction's count, and returns the reduced loss, NaN where `poisoned`. Sums run in index order: the same on every
// run.
inline double reduce_losses(const int64_t* positives, const int64_t* negatives, const double* distances, int64_t n,
                            const LossOptions& options, bool poisoned, double* losses, double* slopes) {
  double total = 0;
  int64_t counted = 0, nonzero = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool counts = anchor_counts(positives[i] >= 0, negatives[i] >= 0, options.on_missing);
    const AnchorLoss anchor = anchor_loss(counts, positives[i] >= 0, distances[i], distances[n + i], options, poisoned);
    counted += counts;
    nonzero += anchor.loss != 0;  // true for NaN
    losses[i] = anchor.loss;
    slopes[i] = anchor.slope;
    total += anchor.loss;
  }
  if (poisoned) total = std::numeric_limits<double>::quiet_NaN();
  if (options.reduction == Reduction::kNone || options.reduction == Reduction::kSum) return total;
  const int64_t count = options.reduction == Reduction::kMean ? counted : nonzero;
  if (count == 0) return total;
  for (int64_t i = 0; i < n; ++i) slopes[i] /= static_cast<double>(count);
  return total / static_cast<double>(count);
}

}  // namespace fasttriplet
