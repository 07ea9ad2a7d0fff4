#include "cpu/dense/weighted.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/dense/dense.h"
#include "cpu/dense/positives.h"
#include "cpu/rows/lengthen.h"

namespace fasttriplet::cpu {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// One side of the values, cpu/dense/weighted.h.
template <typename Value>
struct Side {
  Value *mean, *pivot, *log_total, *above_pivot;

  Side(Value* values, int64_t anchors, int64_t side)
      : mean(values + side * anchors),
        pivot(values + (2 + side) * anchors),
        log_total(values + (4 + side) * anchors),
        above_pivot(values + (6 + side) * anchors) {}
};

// Writes an anchor's values; `total` and `moment` are sums of exp(-|d - pivot|) and of that times d - pivot.
void put(const Side<double>& side, int64_t anchor, double pivot, double total, double moment) {
  side.pivot[anchor] = pivot;
  side.log_total[anchor] = std::log(total);
  side.above_pivot[anchor] = moment / total;
  const double mean = pivot + moment / total;
  // NaN is for anchors without a pair: with a distance beyond float64's range the mean is infinite and the loss NaN.
  side.mean[anchor] = std::isfinite(mean) ? mean : std::numeric_limits<double>::infinity();
}

// Of the mean for a distance d of one of its pairs; sign is +1 for positives, whose weights grow with d, else -1.
double slope_of(const Side<const double>& side, int64_t anchor, double d, double sign) {
  const double above = d - side.pivot[anchor];
  return std::exp(sign * above - side.log_total[anchor]) * (1 + sign * (above - side.above_pivot[anchor]));
}

// Sums exp(-d) and exp(-d) d of every anchor's negatives.
class Softmax {
 public:
  static constexpr DenseKind kKind = DenseKind::kWeighted;
  static constexpr bool kSoftmax = true;
  explicit Softmax(const Side<double>& side) : side_(side) {}

  int64_t numbers(int64_t) const { return 0; }
  double upstream(int64_t) const { return 0; }
  void write_numbers(int64_t, const KeyUnits&, double, int64_t, float*, float*) const {}
  double own(int64_t, double score, DenseSums& row) const {
    row.scores.push_back(score);
    return 0;
  }
  double other(int64_t, double, DenseSums&) const { return 0; }

  void finish(int64_t anchor, const DenseSums& row) {
    double pivot = std::numeric_limits<double>::infinity(), total = 0, moment = 0;
    const bool from_keys = row.kernel.own_total > 0;
    const double smallest_key = static_cast<double>(row.kernel.mean) + row.offset;
    if (from_keys) pivot = smallest_key;
    for (const double score : row.scores) pivot = std::min(pivot, score);
    if (from_keys) {
      const double rescale = std::exp(pivot - smallest_key);
      total = row.kernel.own_total * rescale;
      moment = (row.kernel.others_total + (smallest_key - pivot) * row.kernel.own_total) * rescale;
    }
    for (const double score : row.scores) {
      const double weight = std::exp(pivot - score);
      total += weight;
      moment += weight * (score - pivot);
    }
    if (from_keys || !row.scores.empty()) put(side_, anchor, pivot, total, moment);
  }
  void finish_negative(int64_t, const DenseSums&) {}

 private:
  const Side<double> side_;
};

class Weighted {
 public:
  static constexpr DenseKind kKind = DenseKind::kWeighted;
  static constexpr bool kSoftmax = false;
  Weighted(const double* upstream, const Side<const double>& side) : upstream_(upstream), side_(side) {}

  int64_t numbers(int64_t) const { return 1; }
  double upstream(int64_t anchor) const { return std::isnan(side_.mean[anchor]) ? 0 : upstream_[anchor]; }
  void write_numbers(int64_t anchor, const KeyUnits& units, double, int64_t, float* log_total, float* mean) const {
    *log_total = static_cast<float>(side_.log_total[anchor] - (side_.pivot[anchor] - units.offset()));
    *mean = static_cast<float>(side_.mean[anchor] - units.offset());
  }
  double own(int64_t anchor, double score, DenseSums&) const { return slope(anchor, score); }
  double other(int64_t anchor, double score, DenseSums&) const { return slope(anchor, score); }
  void finish(int64_t, const DenseSums&) {}
  void finish_negative(int64_t, const DenseSums&) {}

 private:
  double slope(int64_t anchor, double score) const {
    return upstream(anchor) == 0 ? 0 : upstream_[anchor] * slope_of(side_, anchor, score, -1);
  }

  const double* upstream_;
  const Side<const double> side_;
};

}  // namespace

template <typename T>
void weighted_distances(const Batch<T>& batch, const PairingInput& input, const Parallel& parallel, double* values) {
  const KeepDenormals mode;
  const Survey survey = survey_rows(batch, parallel);
  const Pairing pairing(batch, survey, input, EqualRows::kApart);
  const int64_t n = pairing.anchors();
  std::fill_n(values, kWeightedValues * n, kNan);
  if (!pairing.all_finite()) return;
  const PositivePairs pairs = positive_pairs(batch, survey, pairing, parallel);
  const Side<double> positives(values, n, 0), negatives(values, n, 1);
  for (int64_t i = 0; i < n; ++i) {
    if (pairs.count(i) == 0) continue;
    const double* const distances = pairs.distances.data() + pairs.begin[i];
    double total = 0, moment = 0;
    for (int64_t k = 0; k < pairs.count(i); ++k) {
      const double above = distances[k] - distances[0];  // the first is the largest
      const double weight = std::exp(above);
      total += weight;
      moment += weight * above;
    }
    put(positives, i, distances[0], total, moment);
  }
  Softmax policy(negatives);
  DenseWalk<T, Softmax>(batch, survey, pairing, parallel, policy).run(nullptr, nullptr);
}

template <typename T>
void weighted_backward(const Batch<T>& batch, const PairingInput& input, const double* upstream, const double* values,
                       const Parallel& parallel, T* gradient, T* reference_gradient) {
  const KeepDenormals mode;
  const Survey survey = survey_rows(batch, parallel);
  if (Lengthened<T>::wanted(survey)) {
    const Lengthened<T> longer(batch, survey);
    weighted_backward(longer.batch(), input, upstream, values, parallel, gradient, reference_gradient);
    return longer.bring_back(gradient, reference_gradient);
  }
  const Pairing pairing(batch, survey, input, EqualRows::kApart);
  const int64_t n = pairing.anchors();
  const bool known =
      pairing.all_finite() && std::none_of(upstream, upstream + 2 * n, [](double value) { return std::isnan(value); });
  const T filler = known ? T{0} : std::numeric_limits<T>::quiet_NaN();
  std::fill_n(gradient, batch.split * batch.d, filler);
  std::fill_n(reference_gradient, (batch.n - batch.split) * batch.d, filler);
  if (!known) return;
  const Side<const double> positives(values, n, 0), negatives(values, n, 1);
  Weighted policy(upstream + n, negatives);
  DenseWalk<T, Weighted>(batch, survey, pairing, parallel, policy).run(gradient, reference_gradient);
  const PositivePairs pairs = positive_pairs(batch, survey, pairing, parallel);
  std::vector<double> slopes(pairs.candidates.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t at = pairs.begin[i]; at < pairs.begin[i + 1]; ++at)
      slopes[at] = upstream[i] == 0 ? 0 : upstream[i] * slope_of(positives, i, pairs.distances[at], 1);
  add_positives_gradient(batch, pairing, pairs, slopes, parallel, gradient, reference_gradient);
}

template void weighted_distances(const Batch<float>&, const PairingInput&, const Parallel&, double*);
template void weighted_distances(const Batch<double>&, const PairingInput&, const Parallel&, double*);
template void weighted_backward(const Batch<float>&, const PairingInput&, const double*, const double*, const Parallel&,
                                float*, float*);
template void weighted_backward(const Batch<double>&, const PairingInput&, const double*, const double*,
                                const Parallel&, double*, double*);

}  // namespace fasttriplet::cpu
