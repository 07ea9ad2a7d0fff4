// What is picked of one anchor's row of keys: the nearest or the farthest of its positives or negatives, exactly. The
// keys leave a few columns, and those are scored.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"
#include "cpu/scan/scan.h"

namespace fasttriplet::cpu {

struct Pick {
  int64_t candidate = -1;  // -1 where there is none
  double score = 0;
};

// The columns that an anchor's own copies are in: no candidates as a whole, but other rows of theirs may be.
struct OwnColumns {
  struct Twin {
    int64_t candidate;  // the lowest of a column that is no own copy
    Role role;
  };
  std::vector<int32_t> columns, alone;  // ascending: all, and those in which there is nobody else
  std::vector<Twin> twins;

  bool holds(int32_t column) const { return std::binary_search(columns.begin(), columns.end(), column); }
  bool is_alone(int32_t column) const { return std::binary_search(alone.begin(), alone.end(), column); }
};

// An anchor while it is mined, and what the scan knows of it.
struct Query {
  int64_t anchor;
  AnchorKeys& keys;
  std::vector<int32_t>& found;
  OwnColumns& own;

  // Calls f(candidate) for what own columns have of one role.
  template <typename F>
  void for_each_twin(Role role, F&& f) const {
    for (const OwnColumns::Twin& twin : own.twins)
      if (twin.role == role) f(twin.candidate);
  }
};

inline constexpr double kNoThreshold = -std::numeric_limits<double>::infinity();
inline bool above(double score, double threshold) { return threshold == kNoThreshold || score > threshold; }

// A bound from every eighth vector, then all columns within it, costs half of a bound from all of them. What that lets
// pass beside the few candidates is sorted out by its keys. Short rows are not worth it.
inline constexpr int64_t kSampleStep = 8, kSampledColumns = 2048;

// Columns that are scored for several anchors before the next ones: their rows stay in the first cache.
inline constexpr int32_t kScoredTogether = 32;

// Whether the column's key may lie in the window.
inline bool in_window(const AnchorKeys& keys, int32_t column, const KeyWindow& window) {
  return keys.keys[column] + keys.widths[column] >= window.floor &&
         window.limit >= keys.keys[column] - keys.widths[column];
}

template <typename T>
class Picker {
 public:
  Picker(const Batch<T>& batch, const Survey& survey, const Pairing& pairing)
      : pairing_(pairing), score_(batch, survey.factors) {}

  // Fills query.own and makes the keys of its columns NaN. Whatever picks wants this first.
  void leave_own_copies(Query& query) const;
  // Makes the keys of all but negatives NaN. Whatever picks negatives wants this too.
  void leave_negatives(Query& query) const;

  // The positive with the smallest or the largest score.
  Pick nearest_positive(Query& query) { return extreme_positive(query, 1); }
  Pick farthest_positive(Query& query) { return extreme_positive(query, -1); }
  // For each threshold the nearest negative above it.
  void nearest_negatives(const Query& query, const std::vector<double>& thresholds, std::vector<Pick>& picks);
  Pick nearest_negative(const Query& query, double threshold);
  Pick farthest_negative(const Query& query);

  double score_of(int64_t anchor, int64_t candidate) const {
    return score_(anchor, pairing_.first_candidate() + candidate);
  }
  // Of several candidates, as rows of the batch.
  void score_rows(int64_t anchor, const int32_t* rows, int64_t count, double* scores) const {
    score_.many(anchor, rows, count, scores);
  }
  int32_t row_of(int32_t column) const {
    return static_cast<int32_t>(pairing_.first_candidate() + candidate_of(column));
  }
  int64_t candidate_of(int32_t column) const { return pairing_.columns().source[column]; }  // the lowest
  Pick pick_of(const Query& query, int32_t column) const {
    const int64_t candidate = candidate_of(column);
    return {candidate, score_of(query.anchor, candidate)};
  }

  // Questions asked of rows of keys, and columns scored for them.
  int64_t queries() const { return queries_.load(std::memory_order_relaxed); }
  int64_t scored() const { return scored_.load(std::memory_order_relaxed); }
  void count_work(int64_t queries, int64_t scored) {
    queries_.fetch_add(queries, std::memory_order_relaxed);
    scored_.fetch_add(scored, std::memory_order_relaxed);
  }
  void forget_work() { queries_ = scored_ = 0; }

 private:
  Pick extreme_positive(Query& query, int sign);
  int64_t lowest_other(int64_t anchor, int32_t column) const;

  const Pairing& pairing_;
  const ExactScore<T> score_;
  std::atomic<int64_t> queries_{0}, scored_{0};
};

}  // namespace fasttriplet::cpu
