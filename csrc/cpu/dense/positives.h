// Every ordered positive pair with its exact distance: what losses over all pairs need of the positives.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"
#include "cpu/triplets/backward.h"

namespace fasttriplet::cpu {

struct PositivePairs {
  std::vector<int64_t> begin;       // [anchors + 1]
  std::vector<int64_t> candidates;  // [pairs] by anchor, farthest first
  std::vector<double> distances;    // [2, pairs] descending by anchor; the second half is unused
  std::vector<double> below;        // [pairs] sum of the anchor's distances before this one

  int64_t count(int64_t anchor) const { return begin[anchor + 1] - begin[anchor]; }
};

template <typename T>
PositivePairs positive_pairs(const Batch<T>& batch, const Survey& survey, const Pairing& pairing,
                             const Parallel& parallel);

// Adds the gradient of sum slopes[pair] * distance[pair] to the gradients.
template <typename T>
void add_positives_gradient(const Batch<T>& batch, const Pairing& pairing, const PositivePairs& pairs,
                            const std::vector<double>& slopes, const Parallel& parallel, T* gradient,
                            T* reference_gradient);

}  // namespace fasttriplet::cpu
