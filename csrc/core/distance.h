// The distances, which of two is the harder, and what a gradient needs.
//
//   kind               distance of x and y      its gradient for x
//   euclidean          sqrt(sum (x - y)^2)      (x - y) / distance
//   squared_euclidean  sum (x - y)^2            2 (x - y)
//   cosine             sum (u - v)^2 / 2        (u - v - distance u) / |x|
//   inner_product      -sum x y                 -y
//
// with u = x / |x|, v = y / |y|. Half the squared difference of unit rows is 1 - cos without its cancellation; the
// distance of a row of norm zero is 1. The kernels call a distance rounded to float64 a score; it is summed in an order
// that no instruction set changes (cpu/kernels/exact-inl.h), from the values given, never from |x|^2 + |y|^2 - 2xy.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/options.h"
#include "core/shared.h"

namespace fasttriplet {

// How a kind combines two entries; the kernels are instantiated on these tags.
struct Difference {
  static constexpr bool kNormalised = false, kProduct = false, kRoot = false;
};
struct RootDifference {
  static constexpr bool kNormalised = false, kProduct = false, kRoot = true;
};
struct UnitDifference {
  static constexpr bool kNormalised = true, kProduct = false, kRoot = false;
};
struct Product {
  static constexpr bool kNormalised = false, kProduct = true, kRoot = false;
};

// Whether, in a search for the smallest score, a in its row goes before b in its row. A score that overflowed to NaN
// goes first, as in torch.min and torch.max; equal scores go to the lower row. A search for the largest negates scores.
FT_SHARED inline bool goes_before(double a, int64_t a_row, double b, int64_t b_row) {
  if (std::isnan(a) != std::isnan(b)) return std::isnan(a);
  return a < b || (!(b < a) && a_row < b_row);
}

// The weight e of an edge (x, y) such that the gradient of x is e times: x - y for differences, (u - v - distance u) /
// |x| for cosine, -y for inner products; `slope` is d loss / d distance. Zero at distance zero, where the root has no
// slope.
FT_SHARED inline double edge_weight(Distance distance, double slope, double value) {
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
