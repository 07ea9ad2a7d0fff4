// Explicit triplets (anchor, positive, negative): from two distances to the loss of one triplet, and the reduction, in
// float64; and what the forward pass keeps for the backward. The hinge and the softplus are those of core/loss.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include "core/loss.h"
#include "core/options.h"
#include "core/shared.h"

namespace fasttriplet {

struct TripletMarginOptions {
  double margin;
  bool swap, soft_margin;
  double mining_margin;  // only triplets with d_ap > d_an - mining_margin count; infinity: all that are finite
  Reduction reduction;

  TripletMarginOptions(double margin, bool swap, bool soft_margin, std::optional<double> mining_margin,
                       Reduction reduction)
      : margin(margin),
        swap(swap),
        soft_margin(soft_margin),
        mining_margin(mining_margin ? *mining_margin : std::numeric_limits<double>::infinity()),
        reduction(reduction) {}
};

// What the backward pass needs: views of one array [rows, T].
template <typename Value>
struct TripletValues {
  Value* slopes;       // [T] d loss / d d_ap = -d loss / d d_an, weighted and divided by the reduction
  Value* to_positive;  // [T]
  Value* to_negative;  // [T], from the positive where that was swapped in
  Value* swapped;      // [T] 1 where it was, else 0; null without swap
  Value* factors;      // [3, T] 1 / |x| of anchors, positives, negatives; null unless the distance normalises

  static int64_t rows(Distance distance, bool swap) { return 3 + swap + (distance == Distance::kCosine ? 3 : 0); }
  TripletValues(Value* values, int64_t t, Distance distance, bool swap)
      : slopes(values),
        to_positive(values + t),
        to_negative(values + 2 * t),
        swapped(swap ? values + 3 * t : nullptr),
        factors(distance == Distance::kCosine ? values + (3 + swap) * t : nullptr) {}
};

// What one triplet brings: its loss and slope, both times its weight, and its share of the reduction's divisor.
struct TripletShare {
  double loss, slope, share;
};

// A triplet that is not finite counts whatever its distances: what is NaN must not be filtered out in silence. It is
// known by the difference of its distances, and `finite` tells of entries that the distance hides.
FT_SHARED inline TripletShare triplet_share(double to_positive, double to_negative, bool finite, double weight,
                                            const TripletMarginOptions& options) {
  const double difference = to_positive - to_negative;
  if (!finite || !std::isfinite(difference)) return {unknown_loss().loss, unknown_loss().slope, weight};
  if (!(to_positive > to_negative - options.mining_margin))
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
