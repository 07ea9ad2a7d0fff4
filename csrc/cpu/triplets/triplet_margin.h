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
