#include "cpu/dense/weighted.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/dense/dense.h"
#include "cpu/rows/lengthen.h"

namespace fasttriplet::cpu {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// One side of the values, cpu/dense/weighted.h. Everything is of s = sign d, which is the harder the larger it is.
template <typename Value>
struct Side {
  double sign;  // +1 for positives, whose weights grow with the distance, else -1
  Value *mean, *pivot, *log_total, *above_pivot;

  static Side positives(Value* values, int64_t anchors) { return {1, values, anchors, 0}; }
  static Side negatives(Value* values, int64_t anchors) { return {-1, values, anchors, 1}; }

 private:
  Side(double sign, Value* values, int64_t anchors, int64_t side)
      : sign(sign),
        mean(values + side * anchors),
        pivot(values + (2 + side) * anchors),
        log_total(values + (4 + side) * anchors),
        above_pivot(values + (6 + side) * anchors) {}
};

// Sums exp(s) and exp(s) d of every anchor's pairs of one side.
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
    const bool from_keys = row.kernel.own_total > 0;
    if (!from_keys && row.scores.empty()) return;
    const double largest_of_keys = static_cast<double>(row.kernel.largest) + side_.sign * row.offset;
    double largest = from_keys ? largest_of_keys : -std::numeric_limits<double>::infinity();
    for (const double score : row.scores) largest = std::max(largest, side_.sign * score);
    double total = 0, moment = 0;  // of exp(s - largest), and of that times s - largest
    if (from_keys) {
      const double below = largest_of_keys - largest, rescale = std::exp(below);
      total = row.kernel.own_total * rescale;
      moment = (row.kernel.others_total + below * row.kernel.own_total) * rescale;
    }
    for (const double score : row.scores) {
      const double below = side_.sign * score - largest, weight = std::exp(below);
      total += weight;
      moment += weight * below;
    }
    side_.pivot[anchor] = side_.sign * largest;
    side_.log_total[anchor] = std::log(total);
    side_.above_pivot[anchor] = side_.sign * (moment / total);
    const double mean = side_.pivot[anchor] + side_.above_pivot[anchor];
    // NaN is for anchors without a pair: with a distance beyond float64's range the mean is infinite and the loss NaN.
    side_.mean[anchor] = std::isfinite(mean) ? mean : std::numeric_limits<double>::infinity();
  }
  void finish_negative(int64_t, const DenseSums&) {}

 private:
  const Side<double> side_;
};

// The slope of that mean for each of its pairs.
class Weighted {
 public:
  static constexpr DenseKind kKind = DenseKind::kWeighted;
  static constexpr bool kSoftmax = false;
  Weighted(const double* upstream, const Side<const double>& side) : upstream_(upstream), side_(side) {}

  int64_t numbers(int64_t) const { return 2; }
  double upstream(int64_t anchor) const { return std::isnan(side_.mean[anchor]) ? 0 : upstream_[anchor]; }
  // Zeros where the slopes are multiplied by zero: the numbers of an anchor without a pair are NaN.
  void write_numbers(int64_t anchor, const KeyUnits& units, double, int64_t step, float* surely, float* perhaps) const {
    const bool still = upstream(anchor) == 0;
    const double pivot = side_.sign * (side_.pivot[anchor] - units.offset());
    const float rounded = static_cast<float>(pivot);
    const double rest = pivot - static_cast<double>(rounded);
    surely[0] = still ? 0 : static_cast<float>(side_.log_total[anchor] + rest);
    surely[step] = still ? 0 : rounded;
    perhaps[0] = still ? 0 : static_cast<float>(side_.sign * side_.above_pivot[anchor] + rest);
    perhaps[step] = 0;
  }
  double own(int64_t anchor, double score, DenseSums&) const { return slope(anchor, score); }
  double other(int64_t anchor, double score, DenseSums&) const { return slope(anchor, score); }
  void finish(int64_t, const DenseSums&) {}
  void finish_negative(int64_t, const DenseSums&) {}

 private:
  double slope(int64_t anchor, double score) const {
    if (upstream(anchor) == 0) return 0;  // where distances may be infinite
    const double above = side_.sign * (score - side_.pivot[anchor]);
    // Of an exact score beside a sum of keys the weight can come out above 1, and by any factor where distances are
    // large: it is none then.
    const double weight = std::exp(std::min(above - side_.log_total[anchor], 0.0));
    return upstream_[anchor] * (weight * (1 + (above - side_.sign * side_.above_pivot[anchor])));
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
  Softmax negatives(Side<double>::negatives(values, n)), positives(Side<double>::positives(values, n));
  DenseWalk<T, Softmax>(batch, survey, pairing, parallel, negatives, &positives).run(nullptr, nullptr);
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
  Weighted negatives(upstream + n, Side<const double>::negatives(values, n));
  Weighted positives(upstream, Side<const double>::positives(values, n));
  DenseWalk<T, Weighted>(batch, survey, pairing, parallel, negatives, &positives).run(gradient, reference_gradient);
}

template void weighted_distances(const Batch<float>&, const PairingInput&, const Parallel&, double*);
template void weighted_distances(const Batch<double>&, const PairingInput&, const Parallel&, double*);
template void weighted_backward(const Batch<float>&, const PairingInput&, const double*, const double*, const Parallel&,
                                float*, float*);
template void weighted_backward(const Batch<double>&, const PairingInput&, const double*, const double*,
                                const Parallel&, double*, double*);

}  // namespace fasttriplet::cpu
