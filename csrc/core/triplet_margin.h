// Explicit triplets (anchor, positive, negative): from two distances to the loss of one triplet, and the reduction, in
// float64. The hinge and the softplus are those of core/loss.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>

#include "core/loss.h"
#include "core/options.h"

namespace fasttriplet {

struct TripletMarginOptions {
  double margin;
  bool swap, soft_margin;
  std::optional<double> mining_margin;  // only triplets with d_ap > d_an - mining_margin count
  Reduction reduction;
};

// What one triplet brings: its loss and slope, both times its weight, and its share of the reduction's divisor.
struct TripletShare {
  double loss, slope, share;
};

// A triplet that is not finite counts whatever its distances: what is NaN must not be filtered out in silence. It is
// known by the difference of its distances, and `finite` tells of entries that the distance hides.
inline TripletShare triplet_share(double to_positive, double to_negative, bool finite, double weight,
                                  const TripletMarginOptions& options) {
  const double difference = to_positive - to_negative;
  if (!finite || !std::isfinite(difference)) return {unknown_loss().loss, unknown_loss().slope, weight};
  if (options.mining_margin && !(to_positive > to_negative - *options.mining_margin))
    return {0 * weight, 0, 0};  // a weight that is not finite is not passed over
  const AnchorLoss triplet = options.soft_margin ? softplus(difference) : hinge(difference, options.margin);
  const bool counts = options.reduction != Reduction::kMeanNonzero || triplet.loss != 0;
  return {weight * triplet.loss, weight * triplet.slope, counts ? weight : 0};
}

// Losses and shares [T], slopes [T], which are divided by the reduction's divisor. Returns the reduced loss; 0 where
// the divisor is 0, but NaN with a loss that is NaN. Sums run in index order: the same on every run.
inline double reduce_triplets(const double* losses, const double* shares, int64_t t, Reduction reduction,
                              double* slopes) {
  double total = 0, divisor = 0;
  for (int64_t i = 0; i < t; ++i) {
    total += losses[i];
    divisor += shares[i];
  }
  if (reduction == Reduction::kNone || reduction == Reduction::kSum) return total;
  if (divisor == 0) {
    for (int64_t i = 0; i < t; ++i) slopes[i] *= 0;
    return total * 0;
  }
  for (int64_t i = 0; i < t; ++i) slopes[i] /= divisor;
  return total / divisor;
}

}  // namespace fasttriplet
