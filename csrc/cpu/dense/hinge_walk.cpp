#include "cpu/dense/hinge_walk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "cpu/dense/dense.h"
#include "cpu/dense/hinge_row.h"
#include "cpu/scan/scan.h"
#include "cpu/threads/scratch_pool.h"
#include "cpu/triplets/edge_blocks.h"

namespace fasttriplet::cpu {
namespace {

// Weights of a block: 2 MB, or what the least number of anchors has. Scored pairs are edges of 16 bytes, twice.
constexpr int64_t kBlockWeights = 1 << 19, kBlockEdges = 1 << 17;
// Anchors of a block: each block reads and writes the sums of all columns, so that 144 take less time than 96 (measured
// at 8192 x 128). At most what is summed in float32 (docs/numerics.md).
constexpr int64_t kLeastAnchors = 144, kLeastScored = 16, kMostAnchors = 256;
constexpr int64_t kTargets = 128;  // a task of the other ends

// Places: the columns, and behind them the anchors where these are other rows.
template <typename T>
class HingeWalk {
 public:
  HingeWalk(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, double margin, const double* upstream,
            double uniform, const Parallel& parallel, const BatchAllOutput& output, T* gradient, T* reference_gradient)
      : batch_(batch),
        survey_(survey),
        pairing_(pairing),
        upstream_(upstream),
        uniform_(uniform),
        parallel_(parallel),
        output_(output),
        gradient_(gradient),
        reference_gradient_(reference_gradient),
        wanted_(gradient != nullptr || reference_gradient != nullptr),
        score_(batch, survey.factors),
        columns_(pairing.column_rows()),
        anchors_(pairing.has_references() ? pairing.anchor_rows() : columns_),
        first_anchor_(pairing.has_references() ? static_cast<int64_t>(columns_.size()) : 0),
        rows_{batch, pairing, score_, columns_, margin},
        edges_(batch, survey, every_row(batch.split, batch.n), parallel) {}

  void run() {
    if (anchors_.empty() || columns_.empty()) return;
    if constexpr (std::is_same_v<T, float>) {
      const Tier& tier = batch_.tier.float32_tier();
      const Scan<T> scan(batch_, survey_, anchors_, columns_, tier, parallel_);
      const double scale = scan.prepared().scale;
      // Squares of the scale and of the margin in units of keys must be float32 numbers.
      const bool in_range = scale >= 0x1p-30 && scale <= 0x1p30 && std::fabs(rows_.margin) * scale * scale <= 0x1p50 &&
                            std::fabs(rows_.margin) * scale <= 0x1p50;
      if (in_range) {
        screen(scan, tier);
        return add_counts();
      }
    }
    score_all();
    add_counts();
  }

 private:
  int64_t places() const { return static_cast<int64_t>(columns_.size() + (first_anchor_ > 0 ? anchors_.size() : 0)); }
  int32_t row_of(int64_t place) const {
    const auto columns = static_cast<int64_t>(columns_.size());
    return place < columns ? columns_[place] : anchors_[place - columns];
  }
  double upstream(int32_t anchor) const { return upstream_ == nullptr ? uniform_ : upstream_[anchor]; }

  // What a thread keeps from task to task.
  struct Scratch {
    HingeRow<T> row;
    std::vector<int32_t> counts;  // [stride] of active triplets, by negative, of a task
    std::vector<int64_t> totals;  // [columns] of all tasks
  };

  // Calls f(scratch, first, last) for the anchors of a block, `grain` of them a task.
  template <typename F>
  void for_anchors(int64_t begin, int64_t end, int64_t grain, int64_t stride, double operations, F&& f) {
    for_each_range(parallel_, end - begin, grain, operations, [&](int64_t first, int64_t last) {
      std::unique_ptr<Scratch> scratch = pool_.take([&] {
        return std::unique_ptr<Scratch>(
            new Scratch{HingeRow<T>(rows_), std::vector<int32_t>(stride), std::vector<int64_t>(columns_.size())});
      });
      f(*scratch, begin + first, begin + last);
      for (size_t column = 0; column < columns_.size(); ++column) {
        scratch->totals[column] += scratch->counts[column];
        scratch->counts[column] = 0;
      }
      pool_.give(std::move(scratch));
    });
  }
  void add_counts() {
    pool_.for_each([&](const Scratch& scratch) {
      for (size_t column = 0; column < columns_.size(); ++column)
        output_.negative_counts[columns_[column] - pairing_.first_candidate()] += scratch.totals[column];
    });
  }

  std::vector<Pull>* edges_of(int64_t r) { return wanted_ ? &edges_.edges(r) : nullptr; }

  void put(int32_t anchor, const HingeSums& sums) {
    output_.sums[anchor] = sums.sum;
    output_.active[anchor] = sums.active;
  }

  // Pairs by their keys.
  void screen(const Scan<T>& scan, const Tier& tier) {
    const int64_t stride = scan.padded_columns(), tile = scan.tile_rows();
    const auto count = static_cast<int64_t>(anchors_.size());
    const int64_t fit = std::clamp<int64_t>(kBlockWeights / stride, kLeastAnchors, kMostAnchors);
    const int64_t block = fit / tile * tile;
    const int64_t share = (std::min(block, count) + 2 * parallel_.threads() - 1) / (2 * parallel_.threads());
    const int64_t grain = (share + tile - 1) / tile * tile;
    Tables tables = tables_of(scan, tier);
    std::vector<float> weights(block * stride);
    const double products = 2.0 * static_cast<double>(std::min(block, count)) * static_cast<double>(stride) *
                            static_cast<double>(batch_.d + 16) / 8;
    for (int64_t begin = 0; begin < count; begin += block) {
      const int64_t end = std::min(begin + block, count);
      edges_.begin(anchors_.data() + begin, end - begin);
      for_anchors(begin, end, grain, stride, products, [&](Scratch& scratch, int64_t first, int64_t last) {
        float* const strip = weights.data() + (first - begin) * stride;
        scan.write_keys(first, last - first, strip);
        for (int64_t at = first; at < last; ++at) {
          const AnchorKeys keys = scan.keys_of(at, strip + (at - first) * stride);
          put(anchors_[at], scratch.row.from_keys(tables.keys, anchors_[at], keys, upstream(anchors_[at]),
                                                  scratch.counts.data(), edges_of(at - begin)));
        }
        if (wanted_)
          tier.dense->weighted_sums({strip, last - first, stride, tables.rows.data(),
                                     static_cast<int64_t>(columns_.size()), depth_,
                                     sums_.data() + (first_anchor_ + first) * depth_});
      });
      if (!wanted_) continue;
      const float* const anchors = tables.rows.data() + (first_anchor_ + begin) * depth_;
      for_each_range(parallel_, static_cast<int64_t>(columns_.size()), kTargets, products / 2,
                     [&](int64_t first, int64_t last) {
                       tier.dense->transposed_sums({weights.data() + first, end - begin, stride, anchors, last - first,
                                                    depth_, sums_.data() + first * depth_});
                     });
      edges_.finish();
    }
    if (wanted_) add_gradient(&scan, &tables);
  }

  // Pairs by their scores.
  void score_all() {
    const auto count = static_cast<int64_t>(anchors_.size()), columns = static_cast<int64_t>(columns_.size());
    const int64_t block = std::clamp<int64_t>(kBlockEdges / columns, kLeastScored, kMostAnchors);
    for (int64_t begin = 0; begin < count; begin += block) {
      const int64_t end = std::min(begin + block, count);
      edges_.begin(anchors_.data() + begin, end - begin);
      const double operations =
          4.0 * static_cast<double>(end - begin) * static_cast<double>(columns) * static_cast<double>(batch_.d + 8);
      for_anchors(begin, end, 1, columns, operations, [&](Scratch& scratch, int64_t first, int64_t last) {
        for (int64_t at = first; at < last; ++at)
          put(anchors_[at], scratch.row.from_scores(anchors_[at], upstream(anchors_[at]), scratch.counts.data(),
                                                    edges_of(at - begin)));
      });
      if (wanted_) edges_.finish();
    }
    if (wanted_) add_gradient(nullptr, nullptr);
  }

  struct Tables {
    ColumnTables<T> columns;
    HingeKeys keys;
    std::vector<float> rows;  // [places, depth] the prepared rows, a one, and by cosine their terms
  };

  // Of the products with these rows follow those with the rows, the sum of weights and, by cosine, that of weight times
  // distance.
  Tables tables_of(const Scan<T>& scan, const Tier& tier) {
    Tables tables = {ColumnTables<T>(batch_, scan, static_cast<int64_t>(columns_.size())), {}, {}};
    const DenseTask task = tables.columns.task();
    HingeKeys& keys = tables.keys;
    keys.units = tables.columns.units;
    keys.kernels = tier.dense;
    keys.stride = task.stride;
    keys.terms = task.terms;
    keys.wide = usual_width(scan);
    keys.close = task.close;
    keys.key_scale = task.key_scale;
    keys.weight_scale = task.weight_scale;
    if (!wanted_) return tables;
    depth_ = (batch_.d + 2 + tier.dense->lanes - 1) / tier.dense->lanes * tier.dense->lanes;
    sums_.assign(places() * depth_, 0.0);
    tables.rows.assign(places() * depth_, 0.0f);
    for_each_range(
        parallel_, places(), 64, 4.0 * static_cast<double>(places() * batch_.d), [&](int64_t first, int64_t last) {
          for (int64_t place = first; place < last; ++place) {
            float* const row = tables.rows.data() + place * depth_;
            for (int64_t k = 0; k < batch_.d; ++k)
              row[k] = static_cast<float>(prepared_entry(batch_, survey_, scan.prepared(), row_of(place), k));
            row[batch_.d] = 1;
            if (batch_.distance == Distance::kCosine) row[batch_.d + 1] = static_cast<float>(term(scan, place));
          }
        });
    return tables;
  }

  // Twice the median: what few rows exceed, unless norms are very different.
  float usual_width(const Scan<T>& scan) const {
    std::vector<double> widths(columns_.size());
    for (size_t column = 0; column < widths.size(); ++column)
      widths[column] = scan.column_terms(static_cast<int64_t>(column)).candidate_width;
    const auto middle = widths.begin() + static_cast<int64_t>(widths.size() / 2);
    std::nth_element(widths.begin(), middle, widths.end());
    return std::max(float_above(2 * *middle), std::numeric_limits<float>::min());
  }

  double term(const Scan<T>& scan, int64_t place) const {
    const auto columns = static_cast<int64_t>(columns_.size());
    return place < columns ? scan.column_terms(place).term : scan.row_terms(place - columns).term;
  }

  // The exact pairs' share, and of the others, where there are keys, sum w (x - y) = x sum w - sum w y, of prepared
  // rows, whose centre keeps both small. By cosine a distance is term + term - x.y, and so are sums of it.
  void add_gradient(const Scan<T>* scan, const Tables* tables) {
    const int64_t d = batch_.d;
    for_each_range(parallel_, places(), 64, 8.0 * static_cast<double>(places() * d), [&](int64_t first, int64_t last) {
      std::vector<double> share(d);
      for (int64_t place = first; place < last; ++place) {
        const int32_t row = row_of(place);
        edges_.gradient_of(row, 1, share.data());
        if (scan != nullptr) add_products(*scan, *tables, place, share.data());
        T* const out = row < batch_.split ? gradient_ + row * d : reference_gradient_ + (row - batch_.split) * d;
        for (int64_t k = 0; k < d; ++k) out[k] += static_cast<T>(share[k]);
      }
    });
  }

  void add_products(const Scan<T>& scan, const Tables& tables, int64_t place, double* out) const {
    const Prepared& prepared = scan.prepared();
    const double scale = prepared.scale;
    const double* const sums = sums_.data() + place * depth_;
    const float* const prepared_row = tables.rows.data() + place * depth_;
    const double weights = sums[batch_.d];
    const int32_t row = row_of(place);
    const double factor = survey_.factors.empty() ? 1 : survey_.factors[row];
    double shrink = 0;
    if (batch_.distance == Distance::kCosine) {
      for (int64_t k = 0; k < batch_.d; ++k) shrink -= static_cast<double>(prepared_row[k]) * sums[k];
      shrink = (shrink + weights * term(scan, place) + sums[batch_.d + 1]) / (scale * scale);
    }
    for (int64_t k = 0; k < batch_.d; ++k) {
      if (batch_.distance == Distance::kInnerProduct) {
        out[k] -= sums[k] / scale + prepared.centre(k) * weights;
        continue;
      }
      const double share = (weights * prepared_entry(batch_, survey_, prepared, row, k) - sums[k]) / scale;
      out[k] += (share - static_cast<double>(batch_.row(row)[k]) * factor * shrink) * factor;
    }
  }

  const Batch<T>& batch_;
  const Survey& survey_;
  const Pairing& pairing_;
  const double* upstream_;
  const double uniform_;
  const Parallel& parallel_;
  const BatchAllOutput& output_;
  T* const gradient_;
  T* const reference_gradient_;
  const bool wanted_;
  const ExactScore<T> score_;
  const std::vector<int32_t> columns_, anchors_;  // rows of the batch
  const int64_t first_anchor_;                    // place
  const HingeRows<T> rows_;
  int64_t depth_ = 0;
  std::vector<double> sums_;  // [places, depth] of weights times prepared rows, from both ends
  EdgeBlocks<T> edges_;       // exact pairs
  ScratchPool<Scratch> pool_;
};

}  // namespace

template <typename T>
void hinge_walk(const Batch<T>& batch, const Survey& survey, const Pairing& pairing, double margin,
                const double* upstream, double uniform, const Parallel& parallel, const BatchAllOutput& output,
                T* gradient, T* reference_gradient) {
  HingeWalk<T>(batch, survey, pairing, margin, upstream, uniform, parallel, output, gradient, reference_gradient).run();
}

template void hinge_walk(const Batch<float>&, const Survey&, const Pairing&, double, const double*, double,
                         const Parallel&, const BatchAllOutput&, float*, float*);
template void hinge_walk(const Batch<double>&, const Survey&, const Pairing&, double, const double*, double,
                         const Parallel&, const BatchAllOutput&, double*, double*);

}  // namespace fasttriplet::cpu
