// What the row kernels of the losses over all pairs look up of the columns, and what they add up of a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/rows/batch.h"
#include "cpu/scan/scan.h"
#include "cpu/triplets/backward.h"

namespace fasttriplet::cpu {

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
  std::vector<double> scores;      // of exact pairs, where a softmax is wanted

  void start(int64_t numbers) {
    counts.assign(numbers, 0);
    slopes.assign(numbers, 0);
    histogram.assign(numbers + 1, 0);
  }
};

inline float width_of(const KeyTerms& terms) {
  return float_above(std::max(terms.anchor_width, terms.candidate_width));
}

// The columns of a scan, whatever they are to the rows.
template <typename T>
struct ColumnTables {
  KeyUnits units;
  float widest = 0;                  // of the widths
  std::vector<float> terms, widths;  // [padded columns]
  std::vector<float> rows;           // [columns, depth] as the scan sees them; empty where no gradient is wanted
  int64_t depth = 0;

  ColumnTables(const Batch<T>& batch, const Scan<T>& scan, int64_t count)
      : units{batch.distance, scan.prepared().product.centre_norm, scan.prepared().scale},
        terms(scan.padded_columns(), std::numeric_limits<float>::quiet_NaN()),
        widths(scan.padded_columns(), 0) {
    for (int64_t column = 0; column < count; ++column) {
      const KeyTerms& of_column = scan.column_terms(column);
      terms[column] = static_cast<float>(of_column.term);
      widths[column] = width_of(of_column);
      widest = std::max(widest, widths[column]);
    }
  }

  // A task without anchors among the columns.
  DenseTask task() const {
    const bool difference = units.distance != Distance::kInnerProduct;
    const bool square = units.distance == Distance::kEuclidean || units.distance == Distance::kSquaredEuclidean;
    DenseTask task = {};
    task.stride = static_cast<int64_t>(terms.size());
    task.terms = terms.data();
    task.widths = widths.data();
    task.close = difference ? kClose : std::numeric_limits<float>::quiet_NaN();
    task.key_scale = static_cast<float>((square ? 2 : 1) / (units.scale * units.scale));
    task.weight_scale = static_cast<float>(edge_weight(units.distance, 1, 1));
    return task;
  }
};

}  // namespace fasttriplet::cpu
