// Softmax-weighted distances: for every anchor the mean distance of its positives, far ones weighing more, and that of
// its negatives, near ones weighing more; in O(N^2 D) operations and O(N * D) memory beside the ordered positive pairs.
//
//   d_ap = sum w d,  w = softmax(d) over the positives       slope of d_ap for a d: w (1 + d - d_ap)
//   d_an = sum w d,  w = softmax(-d) over the negatives      slope of d_an for a d: w (1 - d + d_an)
//
// Source: L. He et al., "FastReID: A Pytorch Toolbox for General Instance Re-identification", 2020.
#pragma once

#include <cstdint>

#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"

namespace fasttriplet::cpu {

inline constexpr int64_t kWeightedValues = 8;

// values [8, anchors], each first of the positives and then of the negatives, NaN where an anchor has none: d_ap and
// d_an; a pivot, the largest and the smallest distance; log sum exp(d - pivot) and log sum exp(pivot - d); and d_ap and
// d_an less their pivot, since distances may be far larger than they differ by. All NaN where a row that takes part is
// not finite. float32 rows: distances of negatives
// have the error of their keys; float64 rows: all exact.
template <typename T>
void weighted_distances(const Batch<T>& batch, const PairingInput& input, const Parallel& parallel, double* values);

// Gradients of sum upstream[0, i] d_ap[i] + upstream[1, i] d_an[i]; upstream [2, anchors], `values` as above.
template <typename T>
void weighted_backward(const Batch<T>& batch, const PairingInput& input, const double* upstream, const double* values,
                       const Parallel& parallel, T* gradient, T* reference_gradient);

}  // namespace fasttriplet::cpu
