// The miners of triplets: for every anchor, or every ordered positive pair, the candidates that a miner picks, exactly,
// in O(N * D) memory beside the triplets themselves.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "core/options.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"
#include "cpu/scan/scan.h"

namespace fasttriplet::cpu {

struct TripletOutput {
  int64_t* anchors;    // [T] ascending
  int64_t* positives;  // [T] among the candidates, -1 where there is none
  int64_t* negatives;  // [T] likewise
  double* distances;   // [2, T] to the positive, to the negative; NaN where there is none
};

template <typename T>
class TripletMiner {
 public:
  TripletMiner(const Batch<T>& batch, const PairingInput& input, const MinerOptions& options, const Parallel& parallel);

  int64_t triplets() const { return first_triplet_.back(); }
  bool all_finite() const { return pairing_.all_finite(); }
  void run(const TripletOutput& output);

  int64_t scored() const { return scored_; }  // exact scores taken of what the scan left

 private:
  struct Pick {
    int64_t candidate = -1;
    double score = 0;
  };
  // The columns that an anchor's own copies are in: no candidates as a whole, but other rows of theirs may be.
  struct OwnColumns {
    struct Twin {
      int64_t candidate;  // the lowest of a column that is no own copy
      Role role;
    };
    std::vector<int32_t> columns, alone;  // all; ascending those in which there is nobody else
    std::vector<Twin> twins;

    bool holds(int32_t column) const { return std::find(columns.begin(), columns.end(), column) != columns.end(); }
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
      for (const auto& twin : own.twins)
        if (twin.role == role) f(twin.candidate);
    }
  };
  static constexpr double kNoThreshold = -std::numeric_limits<double>::infinity();

  bool mine(Query& query, const TripletOutput& output);
  void leave_own_copies(Query& query);  // makes their columns' keys NaN
  int64_t lowest_other(int64_t anchor, int32_t column) const;
  void mine_pairs(Query& query, const TripletOutput& output);
  void mine_ranks(Query& query, const Pick& positive, const TripletOutput& output);

  double score_of(int64_t anchor, int64_t candidate) const {
    return score_(anchor, pairing_.first_candidate() + candidate);
  }
  Pick pick_of(const Query& query, int32_t column) const;
  // The positive with the smallest or the largest score.
  Pick nearest_positive(Query& query) { return extreme_positive(query, 1); }
  Pick farthest_positive(Query& query) { return extreme_positive(query, -1); }
  Pick extreme_positive(Query& query, int sign);
  void leave_negatives(Query& query);  // makes the keys of all others NaN
  // For each threshold the nearest negative above it.
  void nearest_negatives(Query& query, const std::vector<double>& thresholds, std::vector<Pick>& picks);
  Pick nearest_negative(Query& query, double threshold);
  Pick farthest_negative(Query& query);
  // What a semi-hard miner takes, given the nearest negative above the threshold.
  Pick semi_hard(Query& query, double threshold, const Pick& nearest);
  void count_work(int64_t queries, int64_t scored);

  const Batch<T>& batch_;
  const Parallel& parallel_;
  const MinerOptions options_;
  const Survey survey_;
  const Pairing pairing_;
  const ExactScore<T> score_;
  std::vector<int64_t> first_triplet_;  // [anchors + 1]
  int64_t coarse_ = 0;                  // columns a question that the scan may leave
  std::atomic<int64_t> queries_{0}, scored_{0};
};

}  // namespace fasttriplet::cpu
