// Semi-hard: for every anchor the sum of the losses of its positive pairs, each with its semi-hard negative, and the
// gradient. A block of anchors' pairs is kept at a time, and O(N * D).
#pragma once

#include <cstdint>

#include "core/options.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"
#include "cpu/triplets/wanted_rows.h"

namespace fasttriplet::cpu {

struct SemiHardOutput {
  double* sums;       // [anchors]
  int64_t* active;    // [anchors] pairs with a loss above zero
  int64_t* triplets;  // [anchors] pairs that have a negative
};

// The gradients, both null where none are wanted, are those of sum weights[i] sums[i] divided by the number of
// triplets; null weights are ones, others are of usual size. Returns whether every row that takes part is finite. Where
// one is not, sums and gradients are NaN. Where a loss overflows, its anchor's sum is NaN and so are the gradients, as
// they are where the weight of an anchor with triplets is.
//
// Sums are those of float64, and have the same bits in every tier and with any number of threads. So have the
// gradients.
template <typename T>
bool semi_hard(const Batch<T>& batch, const PairingInput& input, const MinerOptions& miner, double margin,
               bool soft_margin, const double* weights, const Parallel& parallel, const SemiHardOutput& output,
               T* gradient, T* reference_gradient);

// What mine_triplets returns of semi-hard mining.
struct MinedTriplets {
  int64_t count;
  const int64_t *anchors, *positives, *negatives;  // [T], anchors ascending
  const double* distances;                         // [2, T]
};

// The same, bit by bit, of triplets that were mined before, by whomever; gradients of some rows alone. Of a process
// that holds a part of the batch.
template <typename T>
bool semi_hard_of_triplets(const Batch<T>& batch, const PairingInput& input, const MinedTriplets& mined, double margin,
                           bool soft_margin, const double* weights, const WantedRows& rows, const Parallel& parallel,
                           const SemiHardOutput& output, T* gradient, T* reference_gradient);

}  // namespace fasttriplet::cpu
