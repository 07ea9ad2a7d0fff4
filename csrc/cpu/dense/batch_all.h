// Batch-all: for every anchor the sum of the losses of all its triplets, in O(N^2 D) operations and O(N * D) memory.
// Softplus losses, and hinge losses of few positives an anchor, keep the ordered positive pairs besides.
#pragma once

#include <cstdint>

#include "core/options.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"

namespace fasttriplet::cpu {

struct BatchAllOutput {
  double* sums;              // [anchors]
  int64_t* active;           // [anchors] triplets with a loss above zero
  int64_t* triplets;         // [anchors] all of them
  int64_t* negative_counts;  // [candidates] active triplets a row is the negative of
};

// The gradients, both null where none are wanted, are those of sum upstream[i] sums[i]. Where `upstream` is null they
// are those of the sums' sum divided by the number of triplets: the sum's own gradient may leave float32's range where
// that of a mean does not.
//
// Returns whether every row that takes part is finite. Where one is not, sums and gradients are NaN. Where a loss
// overflows, its anchor's sum is NaN and so are the gradients, as they are where `upstream` has a NaN.
//
// float64 rows: all exact. float32 rows: active triplets and counts are those of float64. A distance of a negative,
// and of a positive of a large class (cpu/dense/hinge_walk.h), sqrt(2 key) / scale for euclidean, has the error of its
// key (core/bound.h, KeyTerms) unless it was scored exactly.
template <typename T>
bool batch_all(const Batch<T>& batch, const PairingInput& input, double margin, bool soft_margin,
               const double* upstream, const Parallel& parallel, const BatchAllOutput& output, T* gradient,
               T* reference_gradient);

}  // namespace fasttriplet::cpu
