// What the kernels of one call leave for each other on the device, beside the arrays: a few numbers that start as zero
// bytes, so that nothing has to come back to the host.
#pragma once

#include "core/bound.h"
#include "cuda/device.cuh"

namespace fasttriplet::cuda {

// The two searches that share a walk: the nearest negative and the farthest positive of every anchor.
enum Search : int { kNearest, kFarthest };
inline constexpr int kSearches = 2;
template <typename T>
struct PerSearch {
  T of[kSearches];
  FT_SHARED const T& operator[](int search) const { return of[search]; }
  FT_SHARED T& operator[](int search) { return of[search]; }
};

// The screen's rounds: bfloat16 products, and float32 products for the anchors that those leave too many candidates.
enum Round : int { kCoarse, kFine };
inline constexpr int kRounds = 2;

struct State {
  double largest;                 // max |x_k| of the finite rows, after normalising
  double rho[kRounds];            // core/bound.h
  double scale;                   // power of two; 0 where nothing can be screened
  double centre_norm;             // scaled
  ProductScale product[kRounds];  // of inner products
  uint32_t centred;
  uint32_t overflows[kRounds][kSearches];  // anchors whose lists did not suffice
  uint64_t taken_tiles[kRounds];
  uint32_t listed[kSearches];          // anchors that are scored against everyone
  uint64_t candidates[kSearches];      // counters.cuh
  uint32_t bad_rows;                   // rows that are not finite
  Lowest bad, bad_of_other_class;      // the lowest, and the lowest of another class than that one's
  Lowest other_class;                  // the lowest row of another class than row 0
  uint32_t missing;                    // anchors without a positive or a negative
  Lowest first_missing;                // of those
  uint32_t surveyed, scaled[kRounds];  // blocks that have come to the end of a kernel whose last one does more
};

}  // namespace fasttriplet::cuda
