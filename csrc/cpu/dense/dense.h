// Losses over all pairs: a walk over every anchor's negatives and, by a second policy, its positives. It leaves the
// slope of each pair in place of its key, multiplies the slopes with the rows, and keeps neither. In memory O(N * D)
// and a strip of keys a thread.
//
// A policy says what an anchor's loss is:
//   kKind                       what the row kernels compute (cpu/kernels/tier.h)
//   kSoftmax                    whether the walk is only to sum softmax weights for every anchor, without slopes
//   numbers(anchor)             how many numbers of its own an anchor brings
//   write_numbers(...)          those numbers, in keys
//   upstream(anchor)            d loss / d the anchor's sum
//   own(anchor, score, row)     slope of a pair that is scored exactly, times upstream; adds what the sum needs to row
//   other(anchor, score, row)   the same where the row is the candidate
//   finish(anchor, row)         takes the row's sums
//   finish_negative(row, sums)  takes those of a row as a negative
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/dense/partners.h"
#include "cpu/dense/tables.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"
#include "cpu/scan/scan.h"
#include "cpu/triplets/backward.h"

namespace fasttriplet::cpu {

// Rows with more numbers than this are scored pair by pair: the kernels' tables take [numbers, columns] floats.
inline constexpr int64_t kMostNumbers = 128;

template <typename T, typename Policy>
class DenseWalk {
 public:
  // `positives` is null where negatives alone count.
  DenseWalk(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, const Parallel& parallel,
            Policy& negatives, Policy* positives = nullptr)
      : batch_(batch),
        survey_(survey),
        pairing_(pairing),
        parallel_(parallel),
        negatives_(negatives),
        positives_(positives),
        score_(batch, survey.factors) {}

  // Writes the pairs' share of the gradients, which begin as zeros; null where none is wanted.
  void run(T* gradient, T* reference_gradient) {
    gradient_ = gradient;
    reference_gradient_ = reference_gradient;
    std::vector<int32_t> anchors = pairing_.anchor_rows();
    const std::vector<int32_t> candidates = pairing_.column_rows();
    if (!pairing_.has_references()) return run_pass({candidates, candidates, true, !Policy::kSoftmax});
    // By kind, so that as columns the positives of a candidate lie side by side.
    std::stable_sort(anchors.begin(), anchors.end(),
                     [&](int32_t a, int32_t b) { return pairing_.kind_of(a) < pairing_.kind_of(b); });
    run_pass({anchors, candidates, true, false});
    if (!Policy::kSoftmax) run_pass({candidates, anchors, false, true});
  }

 private:
  // All `rows` against all `columns`; which of them are anchors to the others.
  struct Pass {
    const std::vector<int32_t>&rows, &columns;
    bool rows_are_anchors, columns_are_anchors;
  };

  // A policy, and what the columns bring for it as anchors.
  struct Half {
    Policy* policy = nullptr;
    DenseTask task = {};
    std::vector<float> surely, perhaps, upstreams;
  };

  using Kernel = void (*)(const DenseTask& task, DenseRow& row);
  struct Tables {
    ColumnTables<T> columns;
    Half negatives, positives;
    Kernel kernel;
  };

  // What a row's visit adds up.
  struct RowSums {
    DenseSums negatives, positives;
    std::vector<Edge> edges;  // exact pairs
  };

  // A row's visit, seen from one of the policies.
  struct View {
    int32_t row;
    const Pass& pass;
    Policy& policy;
    DenseSums& sums;
    std::vector<Edge>& edges;
  };

  void run_pass(const Pass& pass) {
    if (pass.rows.empty() || pass.columns.empty()) return;
    const Tier& tier = batch_.tier.float32_tier();
    int64_t numbers = 0;
    for (const auto* list :
         {pass.rows_are_anchors ? &pass.rows : nullptr, pass.columns_are_anchors ? &pass.columns : nullptr})
      if (list != nullptr)
        for (const int32_t row : *list) numbers = std::max(numbers, negatives_.numbers(row));
    if (std::is_same_v<T, double> || numbers > kMostNumbers) return exact_pass(pass);
    const Scan<T> scan(batch_, survey_, pass.rows, pass.columns, tier, parallel_);
    const double scale = scan.prepared().scale;
    if (!(scale >= 0x1p-30 && scale <= 0x1p30)) return exact_pass(pass);  // squares of it must be float32 numbers
    const Tables tables = tables_of(pass, scan, tier, pass.columns_are_anchors ? numbers : 0);
    const Partners partners(pairing_, pass.columns, pass.rows_are_anchors, pass.columns_are_anchors);
    scan.run([&](const Strip& strip) {
      std::vector<RowSums> sums(strip.count);
      Positives columns;
      PositiveKeys aside(positives_ == nullptr ? 0 : strip.stride, tier.dense->lanes);
      int32_t* const found = strip.found.data();
      for (int64_t r = 0; r < strip.count; ++r) {
        const int32_t row = strip.rows[r];
        const AnchorKeys keys = strip.keys_of(r);
        std::fill(keys.keys + keys.count, keys.keys + strip.stride, std::numeric_limits<float>::quiet_NaN());
        partners.sort_out(row, keys.keys, columns);
        const View negatives = {row, pass, negatives_, sums[r].negatives, sums[r].edges};
        if (positives_ == nullptr) {
          take_pairs(columns.few, keys.keys, found);
          take_pairs(columns.many, keys.keys, found);
          add_keys(negatives, keys, keys.keys, {0, strip.stride}, tables, tables.negatives, found);
        } else {
          const View positives = {row, pass, *positives_, sums[r].positives, sums[r].edges};
          aside.take(columns.many, keys.keys);
          add_keys(positives, keys, aside.keys(), aside.hull(), tables, tables.positives, found);
          settle(positives, found, take_pairs(columns.few, keys.keys, found));
          add_keys(negatives, keys, keys.keys, {0, strip.stride}, tables, tables.negatives, found);
          aside.put_back(columns.many, keys.keys);
        }
        finish(row, pass, sums[r]);
      }
      if (gradient_ != nullptr) add_products(scan, tier, tables.columns, strip, sums);
      return true;
    });
  }

  // Every pair by its exact score.
  void exact_pass(const Pass& pass) {
    const int64_t rows = static_cast<int64_t>(pass.rows.size()), count = static_cast<int64_t>(pass.columns.size());
    const double operations =
        8.0 * static_cast<double>(rows) * static_cast<double>(count) * static_cast<double>(batch_.d + 8);
    const Partners partners(pairing_, pass.columns, pass.rows_are_anchors, pass.columns_are_anchors);
    for_each_range(parallel_, rows, 16, operations, [&](int64_t first, int64_t last) {
      std::vector<float> keys(count);
      std::vector<int32_t> left(count);
      Positives columns;
      for (int64_t at = first; at < last; ++at) {
        const int32_t row = pass.rows[at];
        RowSums sums;
        std::fill(keys.begin(), keys.end(), 0.0f);
        partners.sort_out(row, keys.data(), columns);
        if (positives_ != nullptr) sums.positives.start(pass.rows_are_anchors ? positives_->numbers(row) : 0);
        for (const std::vector<ColumnRange>* const ranges : {&columns.few, &columns.many}) {
          const int64_t positives = take_pairs(*ranges, keys.data(), left.data());
          if (positives_ != nullptr)
            settle({row, pass, *positives_, sums.positives, sums.edges}, left.data(), positives);
        }
        sums.negatives.start(pass.rows_are_anchors ? negatives_.numbers(row) : 0);
        const int64_t negatives = take_pairs({{0, count}}, keys.data(), left.data());
        settle({row, pass, negatives_, sums.negatives, sums.edges}, left.data(), negatives);
        finish(row, pass, sums);
        if (gradient_ != nullptr) write_edges(row, sums.edges);
      }
    });
  }

  Tables tables_of(const Pass& pass, const Scan<T>& scan, const Tier& tier, int64_t numbers) const {
    const int root = batch_.distance == Distance::kEuclidean;
    Tables tables = {
        ColumnTables<T>(batch_, scan, static_cast<int64_t>(pass.columns.size())),
        {},
        {},
        Policy::kSoftmax ? tier.dense->softmax[root] : tier.dense->row[static_cast<int>(Policy::kKind)][root]};
    fill_half(negatives_, -1, pass, tables.columns, numbers, tables.negatives);
    if (positives_ != nullptr) fill_half(*positives_, 1, pass, tables.columns, numbers, tables.positives);
    if (gradient_ == nullptr) return tables;
    ColumnTables<T>& columns = tables.columns;
    const int64_t count = static_cast<int64_t>(pass.columns.size());
    columns.depth = (batch_.d + tier.dense->lanes - 1) / tier.dense->lanes * tier.dense->lanes;
    columns.rows.assign(count * columns.depth, 0);
    for_each_range(parallel_, count, 64, 4.0 * static_cast<double>(count * batch_.d), [&](int64_t first, int64_t last) {
      for (int64_t column = first; column < last; ++column)
        for (int64_t k = 0; k < batch_.d; ++k)
          columns.rows[column * columns.depth + k] =
              static_cast<float>(prepared_entry(batch_, survey_, scan.prepared(), pass.columns[column], k));
    });
    return tables;
  }

  // The task points into `columns` and `half`.
  static void fill_half(Policy& policy, float sign, const Pass& pass, const ColumnTables<T>& columns, int64_t numbers,
                        Half& half) {
    const int64_t stride = static_cast<int64_t>(columns.terms.size());
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    half.policy = &policy;
    half.surely.assign(numbers * stride, kNever);
    half.perhaps.assign(numbers * stride, kNever);
    half.upstreams.assign(stride, 0);
    if (numbers > 0)
      for (size_t column = 0; column < pass.columns.size(); ++column) {
        half.upstreams[column] = static_cast<float>(policy.upstream(pass.columns[column]));
        policy.write_numbers(pass.columns[column], columns.units, static_cast<double>(columns.widths[column]), stride,
                             half.surely.data() + column, half.perhaps.data() + column);
      }
    half.task = columns.task();
    half.task.sign = sign;
    half.task.column_thresholds = numbers;
    half.task.surely = half.surely.data();
    half.task.perhaps = half.perhaps.data();
    half.task.upstreams = half.upstreams.data();
  }

  // Leaves slopes in place of `keys`, of which the columns of `hull` alone are looked at; nothing where there are none.
  void add_keys(const View& view, const AnchorKeys& row, float* keys, ColumnRange hull, const Tables& tables,
                const Half& half, int32_t* found) const {
    if (hull.begin == hull.end) return;
    DenseSums& sums = view.sums;
    const int64_t numbers = view.pass.rows_are_anchors ? view.policy.numbers(view.row) : 0;
    sums.surely.resize(numbers);
    sums.perhaps.resize(numbers);
    sums.start(numbers);
    sums.offset = tables.columns.units.offset();
    sums.widest = tables.columns.widest;
    DenseRow& kernel = sums.kernel;
    kernel.keys = keys;
    kernel.begin = hull.begin;
    kernel.end = hull.end;
    kernel.term = static_cast<float>(row.terms.term);
    kernel.width = width_of(row.terms);
    kernel.upstream = view.pass.rows_are_anchors ? static_cast<float>(view.policy.upstream(view.row)) : 0;
    kernel.thresholds = numbers;
    if (numbers > 0)
      view.policy.write_numbers(view.row, tables.columns.units, static_cast<double>(kernel.width), 1,
                                sums.surely.data(), sums.perhaps.data());
    kernel.surely = sums.surely.data();
    kernel.perhaps = sums.perhaps.data();
    kernel.log_total = numbers > 0 ? sums.surely[0] : 0;
    kernel.mean = numbers > 0 ? sums.perhaps[0] : 0;
    kernel.pivot = numbers > 1 ? sums.surely[1] : 0;
    kernel.counts = sums.counts.data();
    kernel.slopes = sums.slopes.data();
    kernel.unsure = found;
    tables.kernel(half.task, kernel);
    settle(view, found, kernel.unsure_count);
  }

  // Pairs by their exact scores.
  void settle(const View& view, const int32_t* columns, int64_t count) const {
    for (int64_t at = 0; at < count; ++at) {
      const int32_t other = view.pass.columns[columns[at]];
      const double score = score_(view.row, other);
      double slope = 0;
      if (view.pass.rows_are_anchors) slope += view.policy.own(view.row, score, view.sums);
      if (view.pass.columns_are_anchors) slope += view.policy.other(other, score, view.sums);
      if (slope != 0) view.edges.push_back({other, edge_weight(batch_.distance, slope, score), score});
    }
  }

  void finish(int32_t row, const Pass& pass, const RowSums& sums) {
    if (pass.rows_are_anchors) negatives_.finish(row, sums.negatives);
    if (pass.rows_are_anchors && positives_ != nullptr) positives_->finish(row, sums.positives);
    negatives_.finish_negative(row, sums.negatives);
  }

  T* gradient_of(int32_t row) const {
    return row < batch_.split ? gradient_ + row * batch_.d : reference_gradient_ + (row - batch_.split) * batch_.d;
  }

  // The exact pairs' share, added; each row is visited by one thread at a time.
  void write_edges(int32_t row, const std::vector<Edge>& edges) const {
    if (edges.empty()) return;
    std::vector<T> share(batch_.d);
    batch_.kernels().gather[static_cast<int>(batch_.distance)](
        batch_.source(), survey_.factors.data(), row, edges.data(), static_cast<int64_t>(edges.size()), share.data());
    T* const out = gradient_of(row);
    for (int64_t k = 0; k < batch_.d; ++k) out[k] += share[k];
  }

  // The others' share: sum w (x - y) = x sum w - sum w y, of prepared rows, whose centre keeps both small.
  void add_products(const Scan<T>& scan, const Tier& tier, const ColumnTables<T>& columns, const Strip& strip,
                    const std::vector<RowSums>& sums) const {
    std::vector<double> products(strip.count * columns.depth, 0.0);
    tier.dense->weighted_sums({strip.keys, strip.count, strip.stride, columns.rows.data(),
                               static_cast<int64_t>(columns.rows.size()) / std::max<int64_t>(columns.depth, 1),
                               columns.depth, products.data()});
    const Prepared& prepared = scan.prepared();
    for (int64_t r = 0; r < strip.count; ++r) {
      const int32_t row = strip.rows[r];
      write_edges(row, sums[r].edges);
      const DenseRow &negatives = sums[r].negatives.kernel, &positives = sums[r].positives.kernel;
      const double total = negatives.weight_total + positives.weight_total;
      const double shrink = negatives.shrink + positives.shrink;
      const double* const product = products.data() + r * columns.depth;
      const double factor = survey_.factors.empty() ? 1 : survey_.factors[row];
      T* const out = gradient_of(row);
      for (int64_t k = 0; k < batch_.d; ++k) {
        double share;
        if (batch_.distance == Distance::kInnerProduct) {
          share = -(product[k] / prepared.scale + prepared.centre(k) * total);
        } else {
          share = (total * prepared_entry(batch_, survey_, prepared, row, k) - product[k]) / prepared.scale;
          if (batch_.distance == Distance::kCosine)
            share = (share - static_cast<double>(batch_.row(row)[k]) * factor * shrink) * factor;
        }
        out[k] = static_cast<T>(static_cast<double>(out[k]) + share);
      }
    }
  }

  const Batch<T>& batch_;
  const Survey& survey_;
  const Pairing& pairing_;
  const Parallel& parallel_;
  Policy& negatives_;
  Policy* positives_;
  const ExactScore<T> score_;
  T* gradient_ = nullptr;
  T* reference_gradient_ = nullptr;
};

}  // namespace fasttriplet::cpu
