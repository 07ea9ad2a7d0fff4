// Batch-all's hinge losses where classes are large: every anchor's whole row of pairs, a block of anchors at a time.
// The keys of a block become edge weights, and these times rows the gradient of both ends; then the block is forgotten.
// In memory O(N * D) and a block's rows; nothing is kept per pair.
#pragma once

#include <cstdint>

#include "cpu/dense/batch_all.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"

namespace fasttriplet::cpu {

// The work of an anchor with up to this many positives is less where each pair is compared with each of them
// (cpu/dense/dense.h): measured at 8192 x 128.
inline constexpr int64_t kFewPositives = 16;

// Writes sums, active triplets and counts of negatives, which begin as zeros, and adds the gradients, both null where
// none are wanted. `upstream` [anchors], or null: `uniform` for all.
template <typename T>
void hinge_walk(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, double margin,
                const double* upstream, double uniform, const Parallel& parallel, const BatchAllOutput& output,
                T* gradient, T* reference_gradient);

}  // namespace fasttriplet::cpu
