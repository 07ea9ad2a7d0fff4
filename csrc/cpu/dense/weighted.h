// Softmax-weighted distances: for every anchor the mean distance of its positives, far ones weighing more, and that of
// its negatives, near ones weighing more. O(N^2 D) operations, O(N * D) memory.
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

// values [8, anchors], in each line first that of the positives and then that of the negatives:
//   the mean distance  d_ap, d_an
//   a pivot            the largest distance, the smallest distance
//   of the weights     log sum exp(d - pivot), log sum exp(pivot - d)
//   mean less pivot    d_ap - pivot, d_an - pivot: distances may be far larger than they differ by
//
// NaN where an anchor has none, all NaN where a row that takes part is not finite. float64 rows: all exact. float32
// rows: distances of negatives, and of positives where an anchor has more than kPairwiseClass, have the error of their
// keys.
template <typename T>
void weighted_distances(const Batch<T>& batch, const PairingInput& input, const Parallel& parallel, double* values);

// Gradients of sum upstream[0, i] d_ap[i] + upstream[1, i] d_an[i]; upstream [2, anchors], `values` as above.
template <typename T>
void weighted_backward(const Batch<T>& batch, const PairingInput& input, const double* upstream, const double* values,
                       const Parallel& parallel, T* gradient, T* reference_gradient);

}  // namespace fasttriplet::cpu
