#include "cpu/dense/positives.h"

#include <algorithm>

namespace fasttriplet::cpu {

template <typename T>
PositivePairs positive_pairs(const Batch<T>& batch, const Survey& survey, const Pairing& pairing,
                             const Parallel& parallel) {
  PositivePairs pairs;
  const int64_t anchors = pairing.anchors();
  pairs.begin.assign(anchors + 1, 0);
  for (int64_t i = 0; i < anchors; ++i)
    pairs.begin[i + 1] = pairs.begin[i] + (pairing.takes_part(i) ? pairing.count(i, Role::kPositive) : 0);
  const int64_t count = pairs.begin[anchors];
  pairs.candidates.resize(count);
  pairs.distances.assign(2 * count, 0.0);
  pairs.below.resize(count);
  const ExactScore<T> score(batch, survey.factors);
  const double operations = 3.0 * static_cast<double>(count) * static_cast<double>(batch.d);
  for_each_range(parallel, anchors, 64, operations, [&](int64_t first, int64_t last) {
    struct Positive {
      int64_t candidate;
      double distance;
    };
    std::vector<Positive> positives;
    for (int64_t i = first; i < last; ++i) {
      if (pairs.count(i) == 0) continue;
      positives.clear();
      pairing.for_each_positive(i, [&](int32_t candidate, int32_t) {
        positives.push_back({candidate, score(i, pairing.first_candidate() + candidate)});
      });
      std::sort(positives.begin(), positives.end(), [](const Positive& a, const Positive& b) {
        return goes_before(-a.distance, a.candidate, -b.distance, b.candidate);
      });
      double total = 0;
      for (size_t k = 0; k < positives.size(); ++k) {
        const int64_t at = pairs.begin[i] + static_cast<int64_t>(k);
        pairs.candidates[at] = positives[k].candidate;
        pairs.distances[at] = positives[k].distance;
        pairs.below[at] = total;
        total += positives[k].distance;
      }
    }
  });
  return pairs;
}

template <typename T>
void add_positives_gradient(const Batch<T>& batch, const Pairing& pairing, const PositivePairs& pairs,
                            const std::vector<double>& slopes, const Parallel& parallel, T* gradient,
                            T* reference_gradient) {
  const int64_t count = static_cast<int64_t>(pairs.candidates.size());
  std::vector<int64_t> anchors(count);
  for (int64_t i = 0; i < pairing.anchors(); ++i)
    std::fill(anchors.begin() + pairs.begin[i], anchors.begin() + pairs.begin[i + 1], i);
  std::vector<double> both(2 * count, 0.0);  // edges to a positive and to no negative
  for (int64_t at = 0; at < count; ++at) both[2 * at] = slopes[at];
  std::vector<T> own(batch.split * batch.d), references((batch.n - batch.split) * batch.d);
  edge_gradient<T>(
      batch,
      {count, anchors.data(), pairs.candidates.data(), nullptr, pairs.distances.data(), pairing.first_candidate()},
      both, false, every_row(batch.split, batch.n), parallel, own.data(), references.data());
  for (size_t at = 0; at < own.size(); ++at) gradient[at] += own[at];
  for (size_t at = 0; at < references.size(); ++at) reference_gradient[at] += references[at];
}

template PositivePairs positive_pairs(const Batch<float>&, const Survey&, const Pairing&, const Parallel&);
template PositivePairs positive_pairs(const Batch<double>&, const Survey&, const Pairing&, const Parallel&);
template void add_positives_gradient(const Batch<float>&, const Pairing&, const PositivePairs&,
                                     const std::vector<double>&, const Parallel&, float*, float*);
template void add_positives_gradient(const Batch<double>&, const Pairing&, const PositivePairs&,
                                     const std::vector<double>&, const Parallel&, double*, double*);

}  // namespace fasttriplet::cpu
