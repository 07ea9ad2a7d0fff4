// Gradient of a loss over mined triplets: every row sums its own edges and those that point at it, in a fixed order.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/batch.h"
#include "cpu/triplets/wanted_rows.h"

namespace fasttriplet::cpu {

// Edge 2 t goes from the anchor of triplet t to its positive, edge 2 t + 1 from the same anchor to its negative.
struct TripletEdges {
  int64_t triplets;
  const int64_t* anchors;    // [T] ascending; null where triplet t is anchor t's
  const int64_t* positives;  // [T] among the candidates, -1 where there is none
  const int64_t* negatives;  // [T] likewise; null where no triplet has one
  const double* distances;   // [2, T] to the positive, to the negative
  int64_t first_candidate;   // row of the batch that candidate 0 is: 0, or the batch's split
};

// `slopes` [2 T]: d loss / d distance of each edge. Writes the gradient of the wanted rows, the batch's own and the
// references; all NaN where `poisoned`.
template <typename T>
void edge_gradient(const Batch<T>& batch, const TripletEdges& triplets, const std::vector<double>& slopes,
                   bool poisoned, const WantedRows& wanted, const Parallel& parallel, T* gradient,
                   T* reference_gradient);

struct MinedPairs {
  const int64_t* positives;  // [N], -1 where there is none
  const int64_t* negatives;  // [N], likewise
  const double* distances;   // [2, N] to the positive, to the negative
  const double* slopes;      // [N] d loss / d d_ap = -d loss / d d_an
};

// The gradient [N, D] of batch-hard's loss. `upstream` is the gradient of the loss: [N] where `per_anchor`, else one
// number. A slope that is NaN makes the whole gradient NaN.
template <typename T>
void mined_backward(const Batch<T>& batch, const MinedPairs& pairs, const T* upstream, bool per_anchor,
                    const Parallel& parallel, T* gradient);

}  // namespace fasttriplet::cpu
