// Losses over all pairs: a walk over every anchor's negatives. It leaves the slope of each pair in place of its key,
// multiplies the slopes with the rows, and keeps neither. In memory O(N * D) and a strip of keys a thread.
//
// A policy says what an anchor's loss is:
//   kKind                       what the row kernels compute (cpu/kernels/tier.h)
//   kSoftmax                    whether the walk is only to sum exp(-d) for every anchor, without slopes
//   numbers(anchor)             how many numbers of its own an anchor brings
//   write_numbers(...)          those numbers, in keys
//   upstream(anchor)            d loss / d the anchor's sum
//   own(anchor, score, row)     slope of a pair that is scored exactly, times upstream; adds what the sum needs to row
//   other(anchor, score, row)   the same where the row is the negative
//   finish(anchor, row)         takes the row's sums
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"
#include "cpu/scan/scan.h"
#include "cpu/triplets/backward.h"

namespace fasttriplet::cpu {

// Rows with more numbers than this are scored pair by pair: the kernels' tables take [numbers, columns] floats.
inline constexpr int64_t kMostNumbers = 128;
// Pairs nearer than this share of their terms are scored exactly: float32 keys would leave their slopes few digits.
inline constexpr float kClose = 0x1p-12f;

// What keys mean, for a policy to write its numbers in.
struct KeyUnits {
  Distance distance;
  double centre_norm, scale;

  double key(double score) const { return key_of_score(distance, score, centre_norm, scale); }
  // What the kernels' distances lack: of inner products the centre's own, which may be far larger than they differ by.
  double offset() const {
    return distance == Distance::kInnerProduct ? -(centre_norm / scale) * (centre_norm / scale) : 0;
  }
};

// A row's sums, from the kernels and from what was scored exactly.
struct DenseSums {
  DenseRow kernel = {};
  double offset = 0;  // of the kernel's distances, KeyUnits
  float widest = 0;   // of the columns' widths
  std::vector<float> surely, perhaps;
  std::vector<int64_t> counts;
  std::vector<double> slopes;
  double value = 0;                // exact pairs' share of the anchor's sum
  bool vanished = false;           // whether an exact pair has a loss that is rounded to zero, where that is asked for
  double others = 0;               // how often the row counts as a negative, exact pairs' share
  std::vector<int64_t> histogram;  // exact pairs by how many numbers are above
  std::vector<Edge> edges;         // exact pairs
  std::vector<double> scores;      // of exact pairs, where a softmax is wanted
};

template <typename T, typename Policy>
class DenseWalk {
 public:
  DenseWalk(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, const Parallel& parallel,
            Policy& policy)
      : batch_(batch),
        survey_(survey),
        pairing_(pairing),
        parallel_(parallel),
        policy_(policy),
        score_(batch, survey.factors) {}

  // Writes the negatives' share of the gradients, which begin as zeros; null where none is wanted.
  void run(T* gradient, T* reference_gradient) {
    gradient_ = gradient;
    reference_gradient_ = reference_gradient;
    const std::vector<int32_t> anchors = pairing_.anchor_rows(), candidates = pairing_.column_rows();
    if (!pairing_.has_references()) {
      pass(candidates, candidates, true, !Policy::kSoftmax);
    } else {
      pass(anchors, candidates, true, false);
      if (!Policy::kSoftmax) pass(candidates, anchors, false, true);
    }
  }

 private:
  // All `rows` against all `columns`; which of them are anchors to the others.
  void pass(const std::vector<int32_t>& rows, const std::vector<int32_t>& columns, bool rows_are_anchors,
            bool columns_are_anchors) {
    if (rows.empty() || columns.empty()) return;
    const Tier& tier = batch_.tier.dense != nullptr ? batch_.tier : *batch_.tier.finer;
    int64_t numbers = 0;
    for (const auto* list : {rows_are_anchors ? &rows : nullptr, columns_are_anchors ? &columns : nullptr})
      if (list != nullptr)
        for (const int32_t row : *list) numbers = std::max(numbers, policy_.numbers(row));
    if (std::is_same_v<T, double> || numbers > kMostNumbers)
      return exact_pass(rows, columns, rows_are_anchors, columns_are_anchors);
    const Scan<T> scan(batch_, survey_, rows, columns, tier, parallel_);
    const double scale = scan.prepared().scale;
    if (!(scale >= 0x1p-30 && scale <= 0x1p30))  // squares of it must be float32 numbers
      return exact_pass(rows, columns, rows_are_anchors, columns_are_anchors);
    Tables tables = tables_of(scan, columns, columns_are_anchors ? numbers : 0, tier);
    tables.task.terms = tables.terms.data();
    tables.task.widths = tables.widths.data();
    tables.task.surely = tables.surely.data();
    tables.task.perhaps = tables.perhaps.data();
    tables.task.upstreams = tables.upstreams.data();
    const int root = batch_.distance == Distance::kEuclidean;
    const auto kernel =
        Policy::kSoftmax ? tier.dense->softmax[root] : tier.dense->row[static_cast<int>(Policy::kKind)][root];
    scan.run([&](const Strip& strip) {
      std::vector<DenseSums> sums(strip.count);
      for (int64_t r = 0; r < strip.count; ++r) {
        const AnchorKeys keys = strip.keys_of(r);
        leave_negatives(strip.rows[r], columns, rows_are_anchors, keys.keys);
        std::fill(keys.keys + keys.count, keys.keys + strip.stride, std::numeric_limits<float>::quiet_NaN());
        DenseSums& row = sums[r];
        begin(strip.rows[r], keys, rows_are_anchors, tables, row);
        row.kernel.unsure = strip.found.data();
        kernel(tables.task, row.kernel);
        settle(strip.rows[r], columns, strip.found.data(), row.kernel.unsure_count, rows_are_anchors,
               columns_are_anchors, row);
        finish(strip.rows[r], rows_are_anchors, row);
      }
      if (gradient_ != nullptr) add_products(scan, tier, tables, strip, sums);
      return true;
    });
  }

  // Every pair by its exact score.
  void exact_pass(const std::vector<int32_t>& rows, const std::vector<int32_t>& columns, bool rows_are_anchors,
                  bool columns_are_anchors) {
    const int64_t count = static_cast<int64_t>(columns.size());
    const double operations =
        8.0 * static_cast<double>(rows.size()) * static_cast<double>(count) * static_cast<double>(batch_.d + 8);
    for_each_range(parallel_, static_cast<int64_t>(rows.size()), 16, operations, [&](int64_t first, int64_t last) {
      std::vector<float> keys(count);
      std::vector<int32_t> left;
      for (int64_t at = first; at < last; ++at) {
        std::fill(keys.begin(), keys.end(), 0.0f);
        leave_negatives(rows[at], columns, rows_are_anchors, keys.data());
        left.clear();
        for (int64_t column = 0; column < count; ++column)
          if (!std::isnan(keys[column])) left.push_back(static_cast<int32_t>(column));
        DenseSums row;
        row.counts.assign(rows_are_anchors ? policy_.numbers(rows[at]) : 0, 0);
        row.slopes.assign(row.counts.size(), 0);
        row.histogram.assign(row.counts.size() + 1, 0);
        settle(rows[at], columns, left.data(), static_cast<int64_t>(left.size()), rows_are_anchors, columns_are_anchors,
               row);
        finish(rows[at], rows_are_anchors, row);
        if (gradient_ != nullptr) write_edges(rows[at], row);
      }
    });
  }

  struct Tables {
    KeyUnits units;
    float widest = 0;  // of the columns' widths
    DenseTask task = {};
    std::vector<float> terms, widths, surely, perhaps, upstreams;
    std::vector<float> rows;  // [columns, depth] the prepared columns
    int64_t depth = 0;
  };

  static float width_of(const KeyTerms& terms) {
    return float_above(std::max(terms.anchor_width, terms.candidate_width));
  }

  Tables tables_of(const Scan<T>& scan, const std::vector<int32_t>& columns, int64_t numbers, const Tier& tier) const {
    Tables tables;
    const int64_t stride = scan.padded_columns(), count = static_cast<int64_t>(columns.size());
    tables.units = {batch_.distance, scan.prepared().product.centre_norm, scan.prepared().scale};
    tables.terms.assign(stride, std::numeric_limits<float>::quiet_NaN());
    tables.widths.assign(stride, 0);
    tables.upstreams.assign(stride, 0);
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    tables.surely.assign(numbers * stride, kNever);
    tables.perhaps.assign(numbers * stride, kNever);
    for (int64_t column = 0; column < count; ++column) {
      const KeyTerms& terms = scan.column_terms(column);
      tables.terms[column] = static_cast<float>(terms.term);
      tables.widths[column] = width_of(terms);
      tables.widest = std::max(tables.widest, tables.widths[column]);
      if (numbers == 0) continue;
      tables.upstreams[column] = static_cast<float>(policy_.upstream(columns[column]));
      policy_.write_numbers(columns[column], tables.units, static_cast<double>(tables.widths[column]), stride,
                            tables.surely.data() + column, tables.perhaps.data() + column);
    }
    DenseTask& task = tables.task;
    task.stride = stride;
    task.column_thresholds = numbers;
    const double scale = tables.units.scale;
    const bool difference = batch_.distance != Distance::kInnerProduct;
    const bool square = batch_.distance == Distance::kEuclidean || batch_.distance == Distance::kSquaredEuclidean;
    task.close = difference ? kClose : std::numeric_limits<float>::quiet_NaN();
    task.key_scale = static_cast<float>((square ? 2 : 1) / (scale * scale));
    task.weight_scale = static_cast<float>(edge_weight(batch_.distance, 1, 1));
    if (gradient_ == nullptr) return tables;
    tables.depth = (batch_.d + tier.dense->lanes - 1) / tier.dense->lanes * tier.dense->lanes;
    tables.rows.assign(count * tables.depth, 0);
    for_each_range(parallel_, count, 64, 4.0 * static_cast<double>(count * batch_.d), [&](int64_t first, int64_t last) {
      for (int64_t column = first; column < last; ++column)
        for (int64_t k = 0; k < batch_.d; ++k)
          tables.rows[column * tables.depth + k] =
              static_cast<float>(prepared_entry(scan.prepared(), columns[column], k));
    });
    return tables;
  }

  // As the scan sees it: normalised, centred and scaled.
  double prepared_entry(const Prepared& prepared, int32_t row, int64_t k) const {
    const double factor = survey_.factors.empty() ? 1 : survey_.factors[row];
    return (static_cast<double>(batch_.row(row)[k]) * factor - prepared.centre(k)) * prepared.scale;
  }

  // The keys of what is no negative become NaN.
  void leave_negatives(int32_t row, const std::vector<int32_t>& columns, bool row_is_anchor, float* keys) const {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    const Groups& groups = pairing_.columns();
    if (row_is_anchor) {
      pairing_.for_each_kind_but_negatives(row, [&](int32_t kind) {
        std::fill(keys + groups.representative_begin[kind], keys + groups.representative_begin[kind + 1], kNan);
      });
      pairing_.for_each_own(row, [&](int64_t own) {
        if (pairing_.column_of(own) >= 0) keys[pairing_.column_of(own)] = kNan;
      });
      return;
    }
    const int64_t candidate = row - pairing_.first_candidate();
    const int32_t kind = groups.class_of[candidate];
    for (size_t column = 0; column < columns.size(); ++column)
      if (pairing_.role(columns[column], kind) != Role::kNegative || pairing_.is_own(columns[column], candidate))
        keys[column] = kNan;
  }

  void begin(int32_t row_index, const AnchorKeys& keys, bool is_anchor, const Tables& tables, DenseSums& row) const {
    const int64_t numbers = is_anchor ? policy_.numbers(row_index) : 0;
    row.surely.resize(numbers);
    row.perhaps.resize(numbers);
    row.counts.assign(numbers, 0);
    row.slopes.assign(numbers, 0);
    row.histogram.assign(numbers + 1, 0);
    row.offset = tables.units.offset();
    row.widest = tables.widest;
    DenseRow& kernel = row.kernel;
    kernel.keys = keys.keys;
    kernel.term = static_cast<float>(keys.terms.term);
    kernel.width = width_of(keys.terms);
    kernel.upstream = is_anchor ? static_cast<float>(policy_.upstream(row_index)) : 0;
    kernel.thresholds = numbers;
    if (numbers > 0)
      policy_.write_numbers(row_index, tables.units, static_cast<double>(kernel.width), 1, row.surely.data(),
                            row.perhaps.data());
    kernel.surely = row.surely.data();
    kernel.perhaps = row.perhaps.data();
    kernel.log_total = numbers > 0 ? row.surely[0] : 0;
    kernel.mean = numbers > 0 ? row.perhaps[0] : 0;
    kernel.counts = row.counts.data();
    kernel.slopes = row.slopes.data();
  }

  void settle(int32_t row_index, const std::vector<int32_t>& columns, const int32_t* left, int64_t count,
              bool rows_are_anchors, bool columns_are_anchors, DenseSums& row) const {
    for (int64_t at = 0; at < count; ++at) {
      const int32_t other = columns[left[at]];
      const double score = score_(row_index, other);
      double slope = 0;
      if (rows_are_anchors) slope += policy_.own(row_index, score, row);
      if (columns_are_anchors) slope += policy_.other(other, score, row);
      if (slope != 0) row.edges.push_back({other, edge_weight(batch_.distance, slope, score), score});
    }
  }

  void finish(int32_t row_index, bool is_anchor, const DenseSums& row) {
    if (is_anchor) policy_.finish(row_index, row);
    policy_.finish_negative(row_index, row);
  }

  T* gradient_of(int32_t row) const {
    return row < batch_.split ? gradient_ + row * batch_.d : reference_gradient_ + (row - batch_.split) * batch_.d;
  }

  // The exact pairs' share, added; each row is visited by one thread at a time.
  void write_edges(int32_t row_index, const DenseSums& row) const {
    if (row.edges.empty()) return;
    std::vector<T> share(batch_.d);
    batch_.kernels().gather[static_cast<int>(batch_.distance)](batch_.source(), survey_.factors.data(), row_index,
                                                               row.edges.data(), static_cast<int64_t>(row.edges.size()),
                                                               share.data());
    T* const out = gradient_of(row_index);
    for (int64_t k = 0; k < batch_.d; ++k) out[k] += share[k];
  }

  // The others' share: sum w (x - y) = x sum w - sum w y, of prepared rows, whose centre keeps both small.
  void add_products(const Scan<T>& scan, const Tier& tier, const Tables& tables, const Strip& strip,
                    const std::vector<DenseSums>& sums) const {
    std::vector<double> products(strip.count * tables.depth, 0.0);
    tier.dense->weighted_sums({strip.keys, strip.count, strip.stride, tables.rows.data(),
                               static_cast<int64_t>(tables.rows.size()) / std::max<int64_t>(tables.depth, 1),
                               tables.depth, products.data()});
    const Prepared& prepared = scan.prepared();
    for (int64_t r = 0; r < strip.count; ++r) {
      const int32_t row = strip.rows[r];
      write_edges(row, sums[r]);
      const DenseRow& kernel = sums[r].kernel;
      const double* const product = products.data() + r * tables.depth;
      const double factor = survey_.factors.empty() ? 1 : survey_.factors[row];
      T* const out = gradient_of(row);
      for (int64_t k = 0; k < batch_.d; ++k) {
        double share;
        if (batch_.distance == Distance::kInnerProduct) {
          share = -(product[k] / prepared.scale + prepared.centre(k) * kernel.weight_total);
        } else {
          share = (kernel.weight_total * prepared_entry(prepared, row, k) - product[k]) / prepared.scale;
          if (batch_.distance == Distance::kCosine)
            share = (share - static_cast<double>(batch_.row(row)[k]) * factor * kernel.shrink) * factor;
        }
        out[k] = static_cast<T>(static_cast<double>(out[k]) + share);
      }
    }
  }

  const Batch<T>& batch_;
  const Survey& survey_;
  const Pairing& pairing_;
  const Parallel& parallel_;
  Policy& policy_;
  const ExactScore<T> score_;
  T* gradient_ = nullptr;
  T* reference_gradient_ = nullptr;
};

}  // namespace fasttriplet::cpu
