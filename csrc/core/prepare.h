// What preparing rows for the screen means: normalising factors, the centre and the scale.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/shared.h"

namespace fasttriplet {

// 1 / |x|, or 0 where |x| is below the smallest normal number. `largest` is max |x_k|, `square` sum x_k^2. Squares
// outside float64's comfortable range, which only float64 rows can have, are summed again after scaling by a power of
// two.
template <typename T>
FT_SHARED inline double normalising_factor(const T* row, int64_t d, double largest, double square) {
  if (!(largest > 0)) return 0;
  if (largest > 1e-140 && largest < 1e140) return 1 / std::sqrt(square);
  const int exponent = std::ilogb(largest);
  double scaled_square = 0;
  for (int64_t k = 0; k < d; ++k) {
    const double x = std::scalbn(static_cast<double>(row[k]), -exponent);
    scaled_square += x * x;
  }
  const double norm = std::sqrt(scaled_square);  // of the scaled row: its own norm may be beyond the range
  return std::scalbn(norm, exponent) < std::numeric_limits<double>::min() ? 0 : std::scalbn(1 / norm, -exponent);
}

// A centre changes no winner, only how tight the bound is. Entry by entry it is the median of three medians of three
// rows. Like the mean it sits inside the batch, but a few far rows do not move it. Where it would not at least halve
// the norm of most of those rows there is none: rows of very different norms must each keep their own precision.
inline constexpr int kCentreSamples = 9;
FT_SHARED inline int64_t centre_sample(int s, int64_t rows) { return (2 * s + 1) * rows / (2 * kCentreSamples); }

FT_SHARED inline double smaller_of(double a, double b) { return b < a ? b : a; }
FT_SHARED inline double larger_of(double a, double b) { return a < b ? b : a; }
FT_SHARED inline double median_of_three(double a, double b, double c) {
  return larger_of(smaller_of(a, b), smaller_of(larger_of(a, b), c));
}
FT_SHARED inline double centre_entry(const double x[kCentreSamples]) {
  return median_of_three(median_of_three(x[0], x[1], x[2]), median_of_three(x[3], x[4], x[5]),
                         median_of_three(x[6], x[7], x[8]));
}
// Squared norms of the samples, and of the samples less the centre.
FT_SHARED inline bool centre_pays(const double square[kCentreSamples], const double centred_square[kCentreSamples]) {
  int halved = 0;
  for (int s = 0; s < kCentreSamples; ++s) halved += centred_square[s] <= square[s] / 4;
  return 2 * halved >= kCentreSamples;
}

// What a normalised row of norm zero needs beyond its |x|^2 / 2. Its score with any row is 1, but |0 - v|^2 / 2 is 1/2,
// and between two zero rows 0.
FT_SHARED inline double zero_row_half_square(double scale) { return scale * scale / 2; }

// The power of two that brings every entry below 1; `largest` is the largest of them. Zero where float64 itself is
// close to overflow or underflow: there scores may tie that the screen would tell apart, so it passes every pair on to
// exact scoring.
FT_SHARED inline double scale_for(double largest) {
  if (largest == 0) return 1;
  if (largest < 0x1p-400 || largest > 0x1p400) return 0;
  return std::scalbn(1.0, -std::ilogb(largest) - 1);
}

}  // namespace fasttriplet
