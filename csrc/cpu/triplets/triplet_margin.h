// Explicit triplets: all distances in one read of the rows, all gradients in another. Nothing but [*, T] is kept
// between.
#pragma once

#include <cstdint>

#include "core/triplet_margin.h"
#include "cpu/kernels/tier.h"
#include "cpu/threads/parallel.h"

namespace fasttriplet::cpu {

template <typename T>
struct Triplets {
  const T* rows[3];  // anchors, positives, negatives, each [T, D]
  int64_t t, d;
  Distance distance;
  const Tier& tier;

  const RowKernels<T>& kernels() const { return tier.rows(rows[0]); }
};

// Writes values and losses [T], which are weighted, 0 where a triplet does not count, and not reduced. Returns the
// reduced loss. weights [T], or null: all 1.
template <typename T>
double triplet_margin(const Triplets<T>& triplets, const double* weights, const TripletMarginOptions& options,
                      const Parallel& parallel, TripletValues<double> values, double* losses);

// gradients of anchors, positives and negatives, each [T, D] or null where it is not wanted. `upstream` is the gradient
// of the loss: [T] where `per_triplet`, else one number. A slope that is NaN makes its triplet's rows NaN.
template <typename T>
void triplet_margin_backward(const Triplets<T>& triplets, TripletValues<const double> values, const T* upstream,
                             bool per_triplet, const Parallel& parallel, T* const gradients[3]);

}  // namespace fasttriplet::cpu
