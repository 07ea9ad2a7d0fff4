// The scan: every anchor's keys to all columns, a strip of anchors at a time, handed to a visitor. In memory O(N) a
// thread; no [N, N] array exists.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "core/bound.h"
#include "cpu/kernels/tier.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/prepare.h"
#include "cpu/threads/parallel.h"

namespace fasttriplet::cpu {

// The next larger float32 number; infinity and NaN as they are.
inline float next_above(float x) {
  if (!(x < std::numeric_limits<float>::infinity())) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = bits << 1 == 0 ? 1 : bits & 0x80000000u ? bits - 1 : bits + 1;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// One anchor's keys: column j's exact key is within `widths[j] + terms.anchor_width` of keys[j].
struct AnchorKeys {
  float* keys;          // [count], the visitor's to overwrite; NaN where a column is none
  const float* widths;  // [count]
  int64_t count;        // columns, padding left out
  float widest;         // the largest width
  KeyTerms terms;
  double centre_norm, scale;
  Distance distance;
  const ScanKernels* kernels;

  RowOfKeys row() const { return {keys, widths, count}; }
  RowOfKeys row(int64_t begin, int64_t end) const { return {keys + begin, widths + begin, end - begin}; }

  // Floors: a column with key - width >= surely has a score above `score`. A column whose score is above it has
  // key + width >= perhaps. With minus infinity every column is above.
  struct Above {
    float surely, perhaps;
  };
  Above above(double score) const {
    constexpr float kEverything = -std::numeric_limits<float>::infinity();
    if (score == -std::numeric_limits<double>::infinity()) return {kEverything, kEverything};
    constexpr double kScoreRounding = 0x1p-40;  // of a score in float64, as a share of it, and much more
    const double key = key_of_score(distance, score, centre_norm, scale);
    const double tolerance = terms.anchor_width + kScoreRounding * std::fabs(key);
    return {next_above(float_above(key + tolerance)), float_below(key - tolerance)};
  }
  float surely_above(double score) const { return above(score).surely; }
  // No column with key - width above this can have the smallest key, where `bound` is the key + width of one that is
  // eligible.
  float limit(float bound) const { return float_above(static_cast<double>(bound) + 2 * terms.anchor_width); }
  // Likewise for the largest key, `bound` being a key - width.
  float floor(float bound) const { return float_below(static_cast<double>(bound) - 2 * terms.anchor_width); }
};

// What a thread keeps from strip to strip.
struct ScanScratch {
  std::vector<float> keys;     // [rows of a strip, padded columns]
  std::vector<int32_t> found;  // [padded columns]
};

struct Strip {
  const int32_t* rows;  // [count] rows of the batch
  int64_t count;
  int64_t first;  // place of rows[0] among those of the scan
  float* keys;    // [count, stride]
  int64_t stride;
  std::vector<int32_t>& found;                          // [stride], for a visitor's use
  const std::function<AnchorKeys(int64_t r)>& keys_of;  // of rows[r]
};

// Calls visit(strip) for strips of the rows, in any order and on any thread. Where a visit returns false the scan ends,
// to be run again with a finer tier.
template <typename T>
class Scan {
 public:
  using Visit = std::function<bool(const Strip& strip)>;

  // `rows` and `columns` are rows of the batch, finite ones.
  Scan(const Batch<T>& batch, const Survey& survey, const std::vector<int32_t>& rows,
       const std::vector<int32_t>& columns, const Tier& tier, const Parallel& parallel);

  // Of the rows at places [begin, end), `begin` a multiple of kTileRows. False where a visit was.
  bool run(int64_t begin, int64_t end, const Visit& visit) const;
  bool run(const Visit& visit) const { return run(0, static_cast<int64_t>(rows_.size()), visit); }

  const std::vector<int32_t>& rows() const { return rows_; }

  // For a visitor that keeps its own order: writes the keys of rows [begin, begin + count) to `keys` [count up to whole
  // tiles, padded columns]. `begin` is a multiple of tile_rows().
  void write_keys(int64_t begin, int64_t count, float* keys) const;
  // What is known of the keys of row `at`, which are there.
  AnchorKeys keys_of(int64_t at, float* keys) const;
  int64_t tile_rows() const { return tier_.scan.height; }

  const Prepared& prepared() const { return prepared_; }
  int64_t padded_columns() const { return padded_columns_; }
  const KeyTerms& column_terms(int64_t column) const { return terms_[column]; }
  const KeyTerms& row_terms(int64_t at) const { return terms_[first_place_ + at]; }

 private:
  const Batch<T>& batch_;
  const Tier& tier_;
  const Parallel& parallel_;
  int64_t columns_, padded_columns_;
  std::vector<int32_t> rows_;  // in the order of their places
  int64_t first_place_ = 0;    // of the rows among the prepared ones
  Prepared prepared_;
  std::vector<KeyTerms> terms_;               // [prepared rows]
  std::vector<float> row_terms_;              // [rows up to whole panels]
  std::vector<float> column_terms_, widths_;  // [padded columns]
  float widest_ = 0;
};

}  // namespace fasttriplet::cpu
