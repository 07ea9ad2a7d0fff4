#include "cpu/dense/hinge_row.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/distance.h"
#include "core/loss.h"
#include "cpu/dense/key_limits.h"
#include "cpu/scan/bucket_sort.h"

namespace fasttriplet::cpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kLanesAtMost = 16;
constexpr int64_t kAhead = 4;  // scores of 20 ns, which a line from the third cache takes some 60 for

// Eight steps of the table a positive leave one negative in five or so near one, which is less to settle than as many
// steps again are to write. At most 128 KB of the second cache.
constexpr int64_t kStepsOfPositive = 8, kFewestSteps = 1 << 10, kMostSteps = 1 << 15;
constexpr int64_t kRun = 16;  // entries written at once, without a branch on how many are meant

// With so many buckets a positive few share one, unless some positives lie far off.
constexpr int64_t kBucketsOfPositive = 4;

// The first number of ascending ones from `from` on that is at least `bound`; mostly one of the next.
int64_t first_at_least(const std::vector<float>& ascending, int64_t from, float bound) {
  constexpr int64_t kSteps = 8;
  const int64_t count = static_cast<int64_t>(ascending.size()), near = std::min(from + kSteps, count);
  while (from < near && !(ascending[from] >= bound)) ++from;
  if (from < near || near == count) return from;
  return std::lower_bound(ascending.begin() + from, ascending.end(), bound) - ascending.begin();
}

// As the kernel's.
struct Slots {
  float base, inverse, last;

  int32_t of(float key) const {
    const float slot = (key - base) * inverse;
    const float from_one = slot > 1 ? slot : 1.0f;
    return static_cast<int32_t>(from_one < last ? from_one : last);
  }
};

}  // namespace

template <typename T>
HingeRow<T>::HingeRow(const HingeRows<T>& rows) : rows_(rows) {}

// Writes columns and keys of the positives; the keys of all that is no negative become NaN.
template <typename T>
void HingeRow<T>::take_positives(int64_t anchor, float* keys) {
  const Pairing& pairing = rows_.pairing;
  const Groups& groups = pairing.columns();
  columns_.clear();
  keys_.clear();
  pairing.for_each_own(anchor, [&](int64_t own) {
    if (pairing.column_of(own) >= 0) keys[pairing.column_of(own)] = kNan;
  });
  pairing.for_each_positive_kind(anchor, [&](int32_t kind) {
    for (int32_t column = groups.representative_begin[kind]; column < groups.representative_begin[kind + 1]; ++column) {
      if (std::isnan(keys[column])) continue;
      columns_.push_back(column);
      keys_.push_back(keys[column]);
    }
  });
  pairing.for_each_kind_but_negatives(anchor, [&](int32_t kind) {
    std::fill(keys + groups.representative_begin[kind], keys + groups.representative_begin[kind + 1], kNan);
  });
}

// Writes `order_`, the positives by their keys: each into one of several buckets a positive, which leaves them nearly
// in order.
template <typename T>
void HingeRow<T>::order_positives() {
  const int64_t count = positives(), buckets = kBucketsOfPositive * count;
  const Range range = range_of(keys_.data(), count);
  const Slots slots = {range.least, std::min(static_cast<float>(buckets) / (range.most - range.least), 0x1p100f),
                       static_cast<float>(buckets)};
  const auto before = [&](int32_t a, int32_t b) { return keys_[a] < keys_[b] || (keys_[a] == keys_[b] && a < b); };
  places_.resize(count);
  order_.resize(count);
  for (int64_t p = 0; p < count; ++p) places_[p] = range.most > range.least ? slots.of(keys_[p]) : 1;
  place_by_bucket(places_, buckets + 1, buckets_,
                  [&](int32_t place, size_t p) { order_[place] = static_cast<int32_t>(p); });
  sort_nearly_sorted(order_, before);
}

// The positives' limits, and with them the positives in order. Limits are made ascending as well, where widths differ:
// a positive is surely in a triplet where all behind it are, and perhaps where one before it may be.
template <typename T>
void HingeRow<T>::limit_positives(const HingeKeys& shared, int64_t anchor, const AnchorKeys& keys) {
  const int64_t count = positives(), padded = (count + kLanesAtMost - 1) / kLanesAtMost * kLanesAtMost;
  const float anchor_width = float_above(keys.terms.anchor_width), term = static_cast<float>(keys.terms.term);
  const KeyUnits& units = shared.units;
  const bool product = units.distance == Distance::kInnerProduct;
  for (auto* const values : {&keys_, &widths_, &distances_, &unordered_surely_, &unordered_perhaps_})
    values->resize(padded, 0.0f);
  scores_.assign(count, std::numeric_limits<double>::quiet_NaN());
  for (int64_t p = 0; p < count; ++p) widths_[p] = keys.widths[columns_[p]];
  // A root's margin is in units of the prepared rows, others' are in keys.
  const double margin =
      rows_.margin * (units.distance == Distance::kEuclidean ? units.scale : 1 / static_cast<double>(shared.key_scale));
  const double slack = product ? 0x1p-46 * units.centre_norm * units.centre_norm : 0;
  const int root = units.distance == Distance::kEuclidean;
  shared.kernels->hinge_limits[root]({keys_.data(), widths_.data(), count, anchor_width, static_cast<float>(margin),
                                      float_above(slack), shared.key_scale, unordered_surely_.data(),
                                      unordered_perhaps_.data(), distances_.data()});
  for (int64_t p = 0; p < count; ++p) {
    if (!((term + shared.terms[columns_[p]]) * shared.close >= keys_[p])) continue;
    scores_[p] = rows_.score(anchor, rows_.columns[columns_[p]]);
    const KeyLimits limits = limits_of(scores_[p], rows_.margin, units, static_cast<double>(anchor_width));
    keys_[p] = static_cast<float>(units.key(scores_[p]));
    unordered_surely_[p] = limits.surely;
    unordered_perhaps_[p] = limits.perhaps;
  }
  order_positives();
  ordered_.resize(count);
  surely_.resize(count);
  perhaps_.resize(count);
  float most = -kInfinity, least = kInfinity;
  for (int64_t at = 0; at < count; ++at) {
    const int32_t p = order_[at];
    const bool close = !std::isnan(scores_[p]);
    ordered_[at] = {scores_[p], distances_[p], columns_[p], close, close};
    most = std::max(most, unordered_perhaps_[p]);
    perhaps_[at] = most;
  }
  for (int64_t at = count; at-- > 0;) {
    least = std::min(least, unordered_surely_[order_[at]]);
    surely_[at] = least;
  }
}

// Steps that no positive's limits touch, moved by a width, have the number of positives above them.
template <typename T>
void HingeRow<T>::write_table(const HingeKeys& shared, HingeCounts& task) {
  const int64_t count = positives();
  const int64_t never = std::upper_bound(perhaps_.begin(), perhaps_.end(), -kInfinity) - perhaps_.begin();
  const int64_t steps = std::clamp(kStepsOfPositive * count, kFewestSteps, kMostSteps);
  table_.resize(steps + 1 + kRun);
  Slots slots = {0, 0, static_cast<float>(steps)};
  int64_t next = 1;
  if (never < count) {
    const double wide = shared.wide, low = std::isinf(surely_[never]) ? perhaps_[never] : surely_[never],
                 high = perhaps_[count - 1], size = std::fabs(low) + std::fabs(high);
    const double beside = 3 * (high - low + 2 * wide) / static_cast<double>(steps) + 0x1p-20 * size + 0x1p-100;
    slots.base = static_cast<float>(low - wide - beside);
    slots.inverse = static_cast<float>(static_cast<double>(steps) / (high - low + 2 * (wide + beside)));
    const float reach = float_above(wide + 0x1p-22 * (size + wide));  // and the rounding of what it is added to
    from_.resize(count);
    to_.resize(count);
    for (int64_t at = never; at < count; ++at) {
      from_[at] = slots.of(surely_[at] - reach);
      to_[at] = slots.of(perhaps_[at] + reach);
    }
    const auto write = [&](int64_t end, int64_t entry) {
      int64_t at = next;
      do {
        std::fill_n(table_.begin() + at, kRun, static_cast<int32_t>(entry));
        at += kRun;
      } while (at < end && at + kRun <= static_cast<int64_t>(table_.size()));
      if (at < end) std::fill(table_.begin() + at, table_.begin() + end, static_cast<int32_t>(entry));
      next = std::max(next, end);
    };
    for (int64_t at = never; at < count; ++at) {
      write(from_[at], count - at + 1);
      write(to_[at] + 1, -1 - at);
    }
  }
  std::fill(table_.begin() + next, table_.begin() + steps + 1, 1);
  table_[0] = -1;
  task.base = slots.base;
  task.inverse = slots.inverse;
  task.last_slot = slots.last;
  task.table = table_.data();
}

// The positives from `place` on are those a negative is in an active triplet with.
template <typename T>
void HingeRow<T>::count(int64_t place, int32_t column, int32_t* column_counts) {
  const auto number = static_cast<int32_t>(positives() - place);
  ++histogram_[2 * (number + 1)];
  column_counts[column] += number;
}

// Where a negative of this score begins to be in active triplets, by the loss's own arithmetic.
template <typename T>
int64_t HingeRow<T>::place_of(double score, int64_t from, int64_t to) const {
  return std::partition_point(ordered_.begin() + from, ordered_.begin() + to,
                              [&](const Positive& p) { return !(hinge(p.score - score, rows_.margin).loss > 0); }) -
         ordered_.begin();
}

// Rows that are scored lie all over the batch: while one is scored, that which comes kAhead later is fetched.
template <typename T>
void HingeRow<T>::fetch(int32_t column) const {
  constexpr int64_t kLine = 64, kMost = 32;  // bytes; lines, beyond which the machine fetches by itself
  const char* const row = reinterpret_cast<const char*>(rows_.batch.row(rows_.columns[column]));
  const int64_t bytes = rows_.batch.d * static_cast<int64_t>(sizeof(T));
  for (int64_t line = 0; line < std::min(bytes, kMost * kLine); line += kLine) __builtin_prefetch(row + line);
}

// The exact scores of columns, in their order.
template <typename T>
void HingeRow<T>::score_columns(int64_t anchor) {
  const auto count = static_cast<int64_t>(to_score_.size());
  found_scores_.resize(count);
  for (int64_t at = 0; at < count; ++at) {
    if (at + kAhead < count) fetch(to_score_[at + kAhead]);
    found_scores_[at] = rows_.score(anchor, rows_.columns[to_score_[at]]);
  }
}

// Positives [begin, end), all scored, by their scores. What keys could tell, on which side of them a negative lies,
// stays so.
template <typename T>
void HingeRow<T>::sort_run(int64_t begin, int64_t end) {
  std::sort(ordered_.begin() + begin, ordered_.begin() + end,
            [](const Positive& a, const Positive& b) { return goes_before(a.score, a.column, b.score, b.column); });
}

// The negatives that the table could not tell.
template <typename T>
void HingeRow<T>::settle(const HingeKeys& shared, int64_t anchor, const AnchorKeys& keys, double upstream,
                         HingeCounts& task, std::vector<Pull>* edges) {
  const Distance distance = shared.units.distance;
  const double offset = shared.units.offset();
  const auto weigh = [&](int64_t place, int32_t column, double d, bool close) {
    const auto number = static_cast<double>(positives() - place);
    if (number == 0) return;
    const double weight = edge_weight(distance, -upstream * number, d);
    if (!close)
      keys.keys[column] = static_cast<float>(weight);
    else if (edges != nullptr)
      edges->push_back({weight, rows_.columns[column]});
  };
  pending_.clear();
  cover_.assign(positives() + 1, 0);
  for (int64_t u = 0; u < task.unsure_count; ++u) {
    const UnsureCount& unsure = unsure_[u];
    const float key = unsure.key, width = keys.widths[unsure.column];
    const int64_t from = first_at_least(perhaps_, unsure.first, key - width);
    const int64_t to = first_at_least(surely_, from, key + width);
    const bool close = (task.term + shared.terms[unsure.column]) * shared.close >= key;
    if (from < to) {
      pending_.push_back({unsure.column, static_cast<int32_t>(from), static_cast<int32_t>(to), close});
      ++cover_[from];
      --cover_[to];
      continue;
    }
    count(from, unsure.column, task.column_counts);
    const auto number = static_cast<double>(positives() - from);
    if (number == 0) continue;
    double d = static_cast<double>(key * shared.key_scale);
    if (close)
      d = rows_.score(anchor, rows_.columns[unsure.column]);
    else if (distance == Distance::kEuclidean)
      d = std::sqrt(std::max(d, 0.0));
    task.total += number * (close ? d - offset : d);
    weigh(from, unsure.column, d, close);
  }
  if (pending_.empty()) return;
  for (int64_t at = 0; at < positives(); ++at) cover_[at + 1] += cover_[at];
  to_score_.clear();
  for (int64_t at = 0; at < positives(); ++at)
    if (cover_[at] > 0 && !ordered_[at].scored) to_score_.push_back(ordered_[at].column);
  score_columns(anchor);
  for (int64_t at = 0, begin = 0, next = 0; at <= positives(); ++at) {
    if (at < positives() && cover_[at] > 0) {
      if (ordered_[at].scored) continue;
      ordered_[at].score = found_scores_[next++];
      ordered_[at].scored = true;
      continue;
    }
    if (begin < at) sort_run(begin, at);
    begin = at + 1;
  }
  to_score_.clear();
  for (const Pending& pending : pending_) to_score_.push_back(pending.column);
  score_columns(anchor);
  for (size_t at = 0; at < pending_.size(); ++at) {
    const Pending& pending = pending_[at];
    const double score = found_scores_[at];
    const int64_t place = place_of(score, pending.from, pending.to);
    count(place, pending.column, task.column_counts);
    task.total += static_cast<double>(positives() - place) * (score - offset);
    weigh(place, pending.column, score, pending.close);
  }
}

// From the histogram of the negatives' numbers to the positives' own, their weights and the anchor's sum. `total` is of
// the negatives' distances less `offset`, each as often as counted. Weights are null where there are edges alone.
template <typename T>
HingeSums HingeRow<T>::finish(double offset, double total, double upstream, float* weights,
                              std::vector<Pull>* edges) const {
  const int64_t count = positives();
  HingeSums sums;
  int64_t negatives = 0;
  for (int64_t at = 0; at < count; ++at) {
    const int32_t* const both = histogram_.data() + 2 * (count - at + 1);
    negatives += both[0] + both[1];
    const Positive& positive = ordered_[at];
    const auto number = static_cast<double>(negatives);
    sums.active += negatives;
    const double d = positive.scored ? positive.score : static_cast<double>(positive.distance);
    if (negatives > 0) sums.sum += number * ((positive.scored ? d - offset : d) + rows_.margin);
    const double weight = edge_weight(rows_.batch.distance, upstream * number, d);
    if (weights != nullptr && !positive.close)
      weights[positive.column] = static_cast<float>(weight);
    else if (edges != nullptr && weight != 0)
      edges->push_back({weight, rows_.columns[positive.column]});
  }
  sums.sum -= total;
  if (sums.active == 0 && !std::isnan(sums.sum)) sums.sum = 0;
  return sums;
}

template <typename T>
HingeSums HingeRow<T>::from_keys(const HingeKeys& shared, int64_t anchor, const AnchorKeys& keys, double upstream,
                                 int32_t* column_counts, std::vector<Pull>* edges) {
  take_positives(anchor, keys.keys);
  if (positives() == 0) {
    std::fill_n(keys.keys, shared.stride, 0.0f);
    return {};
  }
  limit_positives(shared, anchor, keys);
  histogram_.assign(2 * (positives() + 2), 0);
  unsure_.resize(shared.stride);
  HingeCounts task = {};
  task.keys = keys.keys;
  task.terms = shared.terms;
  task.widths = keys.widths;
  task.stride = shared.stride;
  task.term = static_cast<float>(keys.terms.term);
  task.close = shared.close;
  task.wide = shared.wide;
  write_table(shared, task);
  task.key_scale = shared.key_scale;
  task.weight_scale = static_cast<float>(-upstream) * shared.weight_scale;
  task.histogram = histogram_.data();
  task.column_counts = column_counts;
  task.unsure = unsure_.data();
  shared.kernels->hinge_counts[shared.units.distance == Distance::kEuclidean](task);
  settle(shared, anchor, keys, upstream, task, edges);
  return finish(shared.units.offset(), task.total, upstream, keys.keys, edges);
}

template <typename T>
HingeSums HingeRow<T>::from_scores(int64_t anchor, double upstream, int32_t* column_counts, std::vector<Pull>* edges) {
  const auto columns = static_cast<int64_t>(rows_.columns.size());
  marks_.assign(columns, 0.0f);
  take_positives(anchor, marks_.data());
  if (positives() == 0) return {};
  ordered_.clear();
  to_score_ = columns_;
  score_columns(anchor);
  for (int64_t p = 0; p < positives(); ++p) ordered_.push_back({found_scores_[p], 0, columns_[p], true, false});
  sort_run(0, positives());
  histogram_.assign(2 * (positives() + 2), 0);
  const double first = ordered_.front().score, last = ordered_.back().score;
  const double offset = std::isfinite(first) ? first : 0;  // of sums that cancel
  double total = 0;
  for (int32_t column = 0; column < columns; ++column) {
    if (std::isnan(marks_[column])) continue;
    const double score = rows_.score(anchor, rows_.columns[column]);
    // A loss that overflows is NaN; then that of the farthest or the nearest positive is.
    if (std::isnan(hinge(first - score, rows_.margin).loss) || std::isnan(hinge(last - score, rows_.margin).loss)) {
      total = std::numeric_limits<double>::quiet_NaN();
      continue;
    }
    const int64_t place = place_of(score, 0, positives());
    count(place, column, column_counts);
    const auto number = static_cast<double>(positives() - place);
    if (number == 0) continue;
    total += number * (score - offset);
    if (edges != nullptr)
      edges->push_back({edge_weight(rows_.batch.distance, -upstream * number, score), rows_.columns[column]});
  }
  return finish(offset, total, upstream, nullptr, edges);
}

template class HingeRow<float>;
template class HingeRow<double>;

}  // namespace fasttriplet::cpu
