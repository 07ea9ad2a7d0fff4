// The distances, each as a score that orders pairs as the distance does, and what its gradient needs.
//
//   kind               score(x, y)                  distance        d distance / d x
//   euclidean          sum (x - y)^2                sqrt(score)     (x - y) / distance
//   squared_euclidean  sum (x - y)^2                score           2 (x - y)
//   cosine             sum (u - v)^2 / 2            score           (u - v - distance u) / |x|
//   inner_product      -sum x y                     score           -y
//
// with u = x / |x|, v = y / |y|. Half the squared difference of unit rows is 1 - cos without its cancellation; the
// cosine of a row of norm zero is 0, its score 1. Scores are sums in float64 in an order that no instruction set
// changes (cpu/exact-inl.h), taken from the values given, never from |x|^2 + |y|^2 - 2xy.
#pragma once

#include <cmath>

#include "core/options.h"

namespace fasttriplet {

// How a kind combines two entries; the kernels are instantiated on these three tags.
struct Difference {
  static constexpr bool kNormalised = false, kProduct = false;
};
struct UnitDifference {
  static constexpr bool kNormalised = true, kProduct = false;
};
struct Product {
  static constexpr bool kNormalised = false, kProduct = true;
};

// The one place where a kind becomes a type: calls f(tag).
template <typename F>
auto dispatch_distance(Distance distance, F&& f) {
  switch (distance) {
    case Distance::kCosine:
      return f(UnitDifference{});
    case Distance::kInnerProduct:
      return f(Product{});
    default:
      return f(Difference{});
  }
}

// Distances are unchanged by a translation of the rows that the screen multiplies.
inline bool is_translation_invariant(Distance distance) { return distance != Distance::kInnerProduct; }

inline double distance_of_score(Distance distance, double score) {
  return distance == Distance::kEuclidean ? std::sqrt(score) : score;
}

// The weight e of an edge (x, y) such that the gradient of x is e times: x - y for differences, (u - v - distance u) /
// |x| for cosine, -y for inner products; `slope` is d loss / d distance. Zero at distance zero, where the root has no
// slope.
inline double edge_weight(Distance distance, double slope, double value) {
  switch (distance) {
    case Distance::kEuclidean:
      return value == 0 ? 0 * slope : slope / value;
    case Distance::kSquaredEuclidean:
      return 2 * slope;
    default:
      return slope;
  }
}

}  // namespace fasttriplet
