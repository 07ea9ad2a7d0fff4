#include "cpu/triplets/triplet_margin.h"

#include <algorithm>
#include <vector>

#include "core/distance.h"
#include "core/prepare.h"
#include "cpu/threads/denormals.h"

namespace fasttriplet::cpu {
namespace {

enum Role { kAnchor, kPositive, kNegative };

// Triplets a task: 48 KB of float32 at D = 128, long enough that nobody waits for the counter of tasks.
constexpr int64_t kGrain = 32;

// In the units of kOperationsPerWorker: an entry of the triplets takes half a nanosecond whatever its distance, most of
// it waiting for memory.
template <typename T>
double work_of(const Triplets<T>& triplets) {
  return static_cast<double>(triplets.t) * static_cast<double>(triplets.d);
}

// Scores between the rows of one triplet; the second and third read of a row come out of the first cache.
template <typename T>
struct TripletRows {
  const Triplets<T>& triplets;
  const double* unused_weights;  // [D] of the survey's fingerprint
  const T* row[3];
  double factor[3] = {1, 1, 1};
  bool finite = true;  // false where a normalised distance would hide an entry that is not

  TripletRows(const Triplets<T>& triplets, int64_t i, const double* unused_weights)
      : triplets(triplets), unused_weights(unused_weights) {
    for (int role = 0; role < 3; ++role) row[role] = triplets.rows[role] + i * triplets.d;
    if (triplets.distance == Distance::kCosine) normalise();
  }

  void normalise() {
    for (int role = 0; role < 3; ++role) {
      RowSurvey survey;
      triplets.kernels().survey(row[role], triplets.d, unused_weights, &survey);
      factor[role] = normalising_factor(row[role], triplets.d, survey.largest, survey.square);
      finite = finite && survey.largest == survey.largest;
    }
  }

  double score(Role x, Role y) const {
    const auto function = triplets.kernels().score[static_cast<int>(triplets.distance)];
    return function(row[x], row[y], triplets.d, factor[x], factor[y]);
  }
};

}  // namespace

template <typename T>
double triplet_margin(const Triplets<T>& triplets, const double* weights, const TripletMarginOptions& options,
                      const Parallel& parallel, TripletValues<double> values, double* losses) {
  const KeepDenormals mode;
  const int64_t t = triplets.t;
  std::vector<double> shares(t);
  const std::vector<double> unused_weights(triplets.distance == Distance::kCosine ? triplets.d : 0);
  for_each_range(parallel, t, kGrain, work_of(triplets), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const TripletRows<T> rows(triplets, i, unused_weights.data());
      const double to_positive = rows.score(kAnchor, kPositive);
      double to_negative = rows.score(kAnchor, kNegative);
      if (options.swap) {
        const double swapped = rows.score(kPositive, kNegative);
        values.swapped[i] = swapped < to_negative;
        if (swapped < to_negative) to_negative = swapped;
      }
      const TripletShare share =
          triplet_share(to_positive, to_negative, rows.finite, weights == nullptr ? 1 : weights[i], options);
      values.slopes[i] = share.slope;
      values.to_positive[i] = to_positive;
      values.to_negative[i] = to_negative;
      if (values.factors != nullptr)
        for (int role = 0; role < 3; ++role) values.factors[role * t + i] = rows.factor[role];
      losses[i] = share.loss;
      shares[i] = share.share;
    }
  });
  return reduce_triplets(losses, shares.data(), t, options.reduction, values.slopes);
}

template <typename T>
void triplet_margin_backward(const Triplets<T>& triplets, TripletValues<const double> values, const T* upstream,
                             bool per_triplet, const Parallel& parallel, T* const gradients[3]) {
  const KeepDenormals mode;
  const int64_t t = triplets.t, d = triplets.d;
  const auto fork_gradient = triplets.kernels().fork_gradient[static_cast<int>(triplets.distance)];
  for_each_range(parallel, t, kGrain, work_of(triplets), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      // Both distances share a row: the anchor, or the positive where its distance to the negative was swapped in.
      const bool swapped = values.swapped != nullptr && values.swapped[i] != 0;
      const Role roles[3] = {swapped ? kPositive : kAnchor, swapped ? kAnchor : kPositive, kNegative};
      const double slope = values.slopes[i] * static_cast<double>(upstream[per_triplet ? i : 0]);
      Fork<T> fork;
      for (int k = 0; k < 3; ++k) {
        fork.rows[k] = triplets.rows[roles[k]] + i * d;
        fork.gradients[k] = gradients[roles[k]] == nullptr ? nullptr : gradients[roles[k]] + i * d;
        fork.factors[k] = values.factors == nullptr ? 1 : values.factors[roles[k] * t + i];
      }
      fork.distances[0] = values.to_positive[i];
      fork.distances[1] = values.to_negative[i];
      fork.weights[0] = edge_weight(triplets.distance, slope, fork.distances[0]);
      fork.weights[1] = edge_weight(triplets.distance, -slope, fork.distances[1]);
      if (slope == 0) {  // nothing to read: most triplets of a trained network are here
        for (T* gradient : fork.gradients)
          if (gradient != nullptr) std::fill_n(gradient, d, T(0));
      } else {
        fork_gradient(fork, d);
      }
    }
  });
}

template double triplet_margin(const Triplets<float>&, const double*, const TripletMarginOptions&, const Parallel&,
                               TripletValues<double>, double*);
template double triplet_margin(const Triplets<double>&, const double*, const TripletMarginOptions&, const Parallel&,
                               TripletValues<double>, double*);
template void triplet_margin_backward(const Triplets<float>&, TripletValues<const double>, const float*, bool,
                                      const Parallel&, float* const[3]);
template void triplet_margin_backward(const Triplets<double>&, TripletValues<const double>, const double*, bool,
                                      const Parallel&, double* const[3]);

}  // namespace fasttriplet::cpu
