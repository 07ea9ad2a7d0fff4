#include "cpu/dense/batch_all.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/loss.h"
#include "cpu/dense/dense.h"
#include "cpu/dense/hinge_walk.h"
#include "cpu/dense/key_limits.h"
#include "cpu/dense/positives.h"
#include "cpu/rows/lengthen.h"

namespace fasttriplet::cpu {
namespace {

// What the policies of both losses share: the positives, and where sums and slopes go.
struct BatchAllData {
  const PositivePairs& pairs;
  const Pairing& pairing;
  double margin;
  const double* upstreams;  // [anchors], or null: `uniform` for all
  double uniform;
  const BatchAllOutput& output;
  std::vector<double>& slopes;  // [pairs] of the anchor's sum, without upstream

  double upstream(int64_t anchor) const { return upstreams == nullptr ? uniform : upstreams[anchor]; }
  const double* distances(int64_t anchor) const { return pairs.distances.data() + pairs.begin[anchor]; }
};

class Hinge : private BatchAllData {
 public:
  static constexpr DenseKind kKind = DenseKind::kHinge;
  static constexpr bool kSoftmax = false;
  explicit Hinge(const BatchAllData& data) : BatchAllData(data) {}
  using BatchAllData::upstream;

  int64_t numbers(int64_t anchor) const { return pairs.count(anchor); }

  // A negative is in an active triplet where its distance is below that of the positive plus the margin.
  void write_numbers(int64_t anchor, const KeyUnits& units, double width, int64_t step, float* surely,
                     float* perhaps) const {
    for (int64_t k = 0; k < numbers(anchor); ++k) {
      const KeyLimits limits = limits_of(distances(anchor)[k], margin, units, width);
      surely[k * step] = limits.surely;
      perhaps[k * step] = limits.perhaps;
    }
  }

  double own(int64_t anchor, double score, DenseSums& row) const {
    if (overflows(anchor, score)) return row.value = std::numeric_limits<double>::quiet_NaN();
    const int64_t above = count_above(anchor, score);
    ++row.histogram[above];
    if (above == 0) return 0;
    const int64_t last = pairs.begin[anchor] + above - 1;
    row.value += pairs.below[last] + pairs.distances[last] + static_cast<double>(above) * (margin - score);
    return -upstream(anchor) * static_cast<double>(above);
  }
  double other(int64_t anchor, double score, DenseSums& row) const {
    if (overflows(anchor, score)) return std::numeric_limits<double>::quiet_NaN();
    const int64_t above = count_above(anchor, score);
    row.others += static_cast<double>(above);
    return -upstream(anchor) * static_cast<double>(above);
  }

  void finish(int64_t anchor, const DenseSums& row) {
    double sum = row.value - row.kernel.own_total;
    int64_t active = 0, exact = 0;
    for (int64_t k = numbers(anchor); k-- > 0;) {
      exact += row.histogram[k + 1];
      sum += static_cast<double>(row.counts[k]) * ((distances(anchor)[k] - row.offset) + margin);
      slopes[pairs.begin[anchor] + k] = static_cast<double>(row.counts[k] + exact);
      active += row.counts[k] + exact;
    }
    output.sums[anchor] = active > 0 || std::isnan(sum) ? sum : 0;
    output.active[anchor] = active;
  }
  void finish_negative(int64_t row_index, const DenseSums& row) {
    const int64_t candidate = row_index - pairing.first_candidate();
    if (candidate >= 0) output.negative_counts[candidate] += std::llround(row.kernel.others_total + row.others);
  }

 private:
  // Whether a loss is NaN since it overflows; then that of the farthest or the nearest positive does. Rows of float64
  // only, which are all scored exactly.
  bool overflows(int64_t anchor, double score) const {
    if (numbers(anchor) == 0) return false;
    const double farthest = distances(anchor)[0], nearest = distances(anchor)[numbers(anchor) - 1];
    return std::isnan(hinge(farthest - score, margin).loss) || std::isnan(hinge(nearest - score, margin).loss);
  }
  // Positives whose triplet with a negative at distance `score` has a loss above zero, by the loss's own arithmetic.
  int64_t count_above(int64_t anchor, double score) const {
    const double* const d = distances(anchor);
    return std::partition_point(d, d + numbers(anchor),
                                [&](double positive) { return hinge(positive - score, margin).loss > 0; }) -
           d;
  }
};

// Counts every triplet as active and raises `vanished` where one may not be: its loss is rounded to zero.
class Softplus : private BatchAllData {
 public:
  static constexpr DenseKind kKind = DenseKind::kSoftplus;
  static constexpr bool kSoftmax = false;
  Softplus(const BatchAllData& data, std::atomic<bool>& vanished) : BatchAllData(data), vanished_(vanished) {}
  using BatchAllData::upstream;

  int64_t numbers(int64_t anchor) const { return pairs.count(anchor); }

  void write_numbers(int64_t anchor, const KeyUnits& units, double width, int64_t step, float* surely,
                     float* perhaps) const {
    for (int64_t k = 0; k < numbers(anchor); ++k) {
      surely[k * step] = limits_of(distances(anchor)[k], -kSoftplusVanishes, units, width).surely;
      perhaps[k * step] = static_cast<float>(distances(anchor)[k] - units.offset());
    }
  }

  double own(int64_t anchor, double score, DenseSums& row) const {
    double total = 0;
    for (int64_t k = 0; k < numbers(anchor); ++k) {
      const AnchorLoss loss = softplus(distances(anchor)[k] - score);
      row.value += loss.loss;
      row.slopes[k] += loss.slope;
      row.vanished = row.vanished || loss.loss == 0;
      total += loss.slope;
    }
    return -upstream(anchor) * total;
  }
  double other(int64_t anchor, double score, DenseSums&) const {
    double total = 0;
    for (int64_t k = 0; k < numbers(anchor); ++k) total += softplus(distances(anchor)[k] - score).slope;
    return -upstream(anchor) * total;
  }

  void finish(int64_t anchor, const DenseSums& row) {
    output.sums[anchor] = row.value + row.kernel.own_total;
    output.active[anchor] = output.triplets[anchor];
    std::copy(row.slopes.begin(), row.slopes.end(), slopes.begin() + pairs.begin[anchor]);
    // The last positive is the nearest: its triplet with the farthest negative has the smallest loss.
    const bool screened = !row.surely.empty();
    if (row.vanished || (screened && !(row.kernel.largest_key + row.widest <= row.surely.back()))) vanished_ = true;
  }
  void finish_negative(int64_t, const DenseSums&) {}  // counted at the end

 private:
  std::atomic<bool>& vanished_;
};

// Of a loss that is above zero for every triplet: as many as the positives of the anchors whose negative a row is.
void count_negatives(const Pairing& pairing, const PositivePairs& pairs, int64_t* counts) {
  const Groups& columns = pairing.columns();
  std::vector<int64_t> totals(columns.classes(), pairs.begin[pairing.anchors()]);  // of each kind
  for (int64_t i = 0; i < pairing.anchors(); ++i)
    if (pairs.count(i) > 0)
      pairing.for_each_kind_but_negatives(i, [&](int32_t kind) { totals[kind] -= pairs.count(i); });
  for (int32_t kind = 0; kind < columns.classes(); ++kind)
    for (int32_t at = columns.class_begin[kind]; at < columns.class_begin[kind + 1]; ++at)
      if (pairing.column_of(columns.members[at]) >= 0) counts[columns.members[at]] = totals[kind];
  for (int64_t i = 0; i < pairing.anchors(); ++i) {
    if (pairs.count(i) == 0) continue;
    pairing.for_each_own(i, [&](int64_t own) {
      if (pairing.column_of(own) >= 0 && pairing.role(i, columns.class_of[own]) == Role::kNegative)
        counts[own] -= pairs.count(i);
    });
  }
}

// Of softplus losses, some of which are rounded to zero: they are those that a hinge of this margin leaves out.
template <typename T>
void count_softplus(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, const PositivePairs& pairs,
                    const Parallel& parallel, const BatchAllOutput& output) {
  std::vector<double> sums(pairing.anchors()), slopes(pairs.candidates.size());
  const BatchAllOutput counts = {sums.data(), output.active, output.triplets, output.negative_counts};
  Hinge policy({pairs, pairing, -kSoftplusVanishes, nullptr, 0, counts, slopes});
  DenseWalk<T, Hinge>(batch, survey, pairing, parallel, policy).run(nullptr, nullptr);
  for (int64_t i = 0; i < pairing.anchors(); ++i)
    if (output.active[i] == 0 && !std::isnan(output.sums[i])) output.sums[i] = 0;
}

// Where each pair is compared with each positive of both of its rows.
template <typename T>
void sum_by_positives(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, double margin,
                      bool soft_margin, const double* upstream, double uniform, const Parallel& parallel,
                      const BatchAllOutput& output, T* gradient, T* reference_gradient) {
  const PositivePairs pairs = positive_pairs(batch, survey, pairing, parallel);
  std::vector<double> slopes(pairs.candidates.size(), 0.0);
  const BatchAllData data{pairs, pairing, margin, upstream, uniform, output, slopes};
  const auto walk = [&](auto policy) {
    DenseWalk<T, decltype(policy)>(batch, survey, pairing, parallel, policy).run(gradient, reference_gradient);
  };
  std::atomic<bool> vanished{false};
  if (soft_margin)
    walk(Softplus(data, vanished));
  else
    walk(Hinge(data));
  if (vanished)
    count_softplus(batch, survey, pairing, pairs, parallel, output);
  else if (soft_margin)
    count_negatives(pairing, pairs, output.negative_counts);
  if (gradient == nullptr && reference_gradient == nullptr) return;
  for (int64_t i = 0; i < pairing.anchors(); ++i)
    for (int64_t at = pairs.begin[i]; at < pairs.begin[i + 1]; ++at) slopes[at] *= data.upstream(i);
  add_positives_gradient(batch, pairing, pairs, slopes, parallel, gradient, reference_gradient);
}

}  // namespace

template <typename T>
bool batch_all(const Batch<T>& batch, const PairingInput& input, double margin, bool soft_margin,
               const double* upstream, const Parallel& parallel, const BatchAllOutput& output, T* gradient,
               T* reference_gradient) {
  const KeepDenormals mode;
  const Survey survey = survey_rows(batch, parallel);
  const bool wanted = gradient != nullptr || reference_gradient != nullptr;
  if (Lengthened<T>::wanted(survey)) {
    const Lengthened<T> longer(batch, survey);
    const bool finite =
        batch_all(longer.batch(), input, margin, soft_margin, upstream, parallel, output, gradient, reference_gradient);
    if (wanted) longer.bring_back(gradient, reference_gradient);
    return finite;
  }
  const Pairing pairing(batch, survey, input, EqualRows::kApart);
  const int64_t anchors = pairing.anchors();
  std::fill_n(output.sums, anchors, 0.0);
  std::fill_n(output.active, anchors, 0);
  std::fill_n(output.negative_counts, pairing.candidates(), 0);
  for (int64_t i = 0; i < anchors; ++i)
    output.triplets[i] =
        pairing.takes_part(i) ? pairing.count(i, Role::kPositive) * pairing.count(i, Role::kNegative) : 0;
  const auto fill_gradients = [&](T value) {
    if (!wanted) return;  // of one of the two alone that is null there are no rows
    std::fill_n(gradient, batch.split * batch.d, value);
    std::fill_n(reference_gradient, (batch.n - batch.split) * batch.d, value);
  };
  fill_gradients(0);
  const int64_t triplets = std::accumulate(output.triplets, output.triplets + anchors, int64_t{0});
  const double uniform = 1 / static_cast<double>(std::max<int64_t>(triplets, 1));
  int64_t most_positives = 0;
  for (int64_t i = 0; i < anchors && !soft_margin; ++i)
    if (output.triplets[i] > 0) most_positives = std::max(most_positives, pairing.count(i, Role::kPositive));
  if (!soft_margin && most_positives > kFewPositives)
    hinge_walk(batch, survey, pairing, margin, upstream, uniform, parallel, output, gradient, reference_gradient);
  else
    sum_by_positives(batch, survey, pairing, margin, soft_margin, upstream, uniform, parallel, output, gradient,
                     reference_gradient);
  const auto has_nan = [&](const double* values) {
    return std::any_of(values, values + anchors, [](double value) { return std::isnan(value); });
  };
  const bool finite = pairing.all_finite();
  if (!finite) std::fill_n(output.sums, anchors, std::numeric_limits<double>::quiet_NaN());
  if (has_nan(output.sums) || (upstream != nullptr && has_nan(upstream)) || !finite)
    fill_gradients(std::numeric_limits<T>::quiet_NaN());
  return finite;
}

template bool batch_all(const Batch<float>&, const PairingInput&, double, bool, const double*, const Parallel&,
                        const BatchAllOutput&, float*, float*);
template bool batch_all(const Batch<double>&, const PairingInput&, double, bool, const double*, const Parallel&,
                        const BatchAllOutput&, double*, double*);

}  // namespace fasttriplet::cpu
