// One anchor with many positives: for each of its negatives how many positives it is in an active triplet with, and for
// each positive how many negatives, in O((P + M) log P) and mostly O(P + M). The positives are put in order once; a
// table of equal steps of the key tells most negatives their place. Where keys cannot tell, both are scored and ordered
// by their scores, so that all numbers are those of float64. In memory O(P + M) and what the table takes.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/dense/dense.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"

namespace fasttriplet::cpu {

// What the rows of a walk share.
template <typename T>
struct HingeRows {
  const Batch<T>& batch;
  const Pairing& pairing;
  const ExactScore<T>& score;
  const std::vector<int32_t>& columns;  // rows of the batch
  double margin;
};

// What they share where there are keys.
struct HingeKeys {
  KeyUnits units;
  const DenseKernels* kernels;
  int64_t stride;                        // padded columns
  const float* terms;                    // [stride] of the columns
  float wide;                            // columns of this width or more are not looked up in the table
  float close, key_scale, weight_scale;  // as in DenseTask
};

struct HingeSums {
  double sum = 0;
  int64_t active = 0;
};

// Scratch of one thread, of one anchor at a time.
template <typename T>
class HingeRow {
 public:
  explicit HingeRow(const HingeRows<T>& rows);

  // `keys` are replaced by edge weights, times `upstream`; pairs of too few digits go to `edges` in their place,
  // null where no gradient is wanted.
  // `column_counts` [stride], of active triplets by negative, are added to.
  HingeSums from_keys(const HingeKeys& shared, int64_t anchor, const AnchorKeys& keys, double upstream,
                      int32_t* column_counts, std::vector<Pull>* edges);
  // Every pair by its score.
  HingeSums from_scores(int64_t anchor, double upstream, int32_t* column_counts, std::vector<Pull>* edges);

 private:
  struct Positive {
    double score;    // where it is scored
    float distance;  // from the key, less the units' offset
    int32_t column;
    bool scored, close;
  };
  // A negative that keys cannot tell: the positives [from, to) may be those it is below.
  struct Pending {
    int32_t column, from, to;
    bool close;
  };

  void take_positives(int64_t anchor, float* keys);
  void order_positives();
  void limit_positives(const HingeKeys& shared, int64_t anchor, const AnchorKeys& keys);
  void write_table(const HingeKeys& shared, HingeCounts& task);
  void settle(const HingeKeys& shared, int64_t anchor, const AnchorKeys& keys, double upstream, HingeCounts& task,
              std::vector<Pull>* edges);
  void fetch(int32_t column) const;
  void score_columns(int64_t anchor);
  void sort_run(int64_t begin, int64_t end);
  int64_t place_of(double score, int64_t from, int64_t to) const;
  void count(int64_t place, int32_t column, int32_t* column_counts);
  HingeSums finish(double offset, double total, double upstream, float* weights, std::vector<Pull>* edges) const;

  int64_t positives() const { return static_cast<int64_t>(columns_.size()); }

  const HingeRows<T>& rows_;
  std::vector<int32_t> columns_;                             // [P] the positives, by column
  std::vector<float> keys_, widths_, distances_;             // [P] up to whole vectors, likewise
  std::vector<float> unordered_surely_, unordered_perhaps_;  // likewise
  std::vector<double> scores_;                               // [P] likewise, NaN where not scored
  std::vector<int32_t> order_, places_, buckets_;
  std::vector<Positive> ordered_;        // [P] ascending
  std::vector<float> surely_, perhaps_;  // [P] of the ordered ones, ascending
  std::vector<int32_t> table_, from_, to_, histogram_, cover_;
  std::vector<UnsureCount> unsure_;
  std::vector<Pending> pending_;
  std::vector<int32_t> to_score_;     // columns
  std::vector<double> found_scores_;  // of these
  std::vector<float> marks_;          // [columns] of from_scores
};

}  // namespace fasttriplet::cpu
