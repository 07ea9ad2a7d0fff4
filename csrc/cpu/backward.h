// Gradient of a loss over mined pairs: every row sums its own edges and those that point at it, in a fixed order.
#pragma once

#include <cstdint>

#include "cpu/batch.h"

namespace fasttriplet::cpu {

struct MinedPairs {
  const int64_t* positives;  // [N], -1 where there is none
  const int64_t* negatives;  // [N], likewise
  const double* distances;   // [2, N] to the positive, to the negative
  const double* slopes;      // [N] d loss / d d_ap = -d loss / d d_an
};

// gradient [N, D]. `upstream` is the gradient of the loss: [N] where `per_anchor`, else one number. A slope that is NaN
// makes the whole gradient NaN.
template <typename T>
void mined_backward(const Batch<T>& batch, const MinedPairs& pairs, const T* upstream, bool per_anchor,
                    const Parallel& parallel, T* gradient);

}  // namespace fasttriplet::cpu
