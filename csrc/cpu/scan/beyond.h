// For many thresholds of an anchor the nearest negative above each, exactly. Two looks at each key, whatever the number
// of thresholds, leave a threshold the few columns about it, and those of several anchors are scored together, block by
// block of columns: rows come from memory once for all of them. What is scored for one threshold of an anchor is not
// scored again for another.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/scan/picks.h"

namespace fasttriplet::cpu {

// Up to so many thresholds of an anchor passes over all its columns, for a few of them each, are the faster.
inline constexpr int64_t kFewThresholds = 16;

// Asked of some anchors, one after the other, then settled, then answered. Keys must be those of negatives alone
// (Picker::leave_negatives) and stay until then.
template <typename T>
class NegativesBeyond {
 public:
  explicit NegativesBeyond(Picker<T>& picker) : picker_(picker) {}

  void clear();
  void ask(const Query& query, const std::vector<double>& thresholds);
  void settle();
  // Of the anchor that was asked for as number `place`: picks by threshold.
  void answer(int64_t place, const Query& query, std::vector<Pick>& picks);

 private:
  enum class How {
    kPasses,  // few thresholds, answered at once
    kLinks,
    kScores,  // of all negatives, since keys tell too few apart
  };
  struct Anchor {
    int64_t row, first_question, first_link, first_twin;
    How how;
  };
  struct Question {
    double threshold;
    Pick pick;  // where it is answered
  };
  struct Request {  // of a score
    int32_t place, column;
  };
  struct Link {
    int32_t question, request;
  };
  struct Threshold {
    float sure, floor;  // AnchorKeys::Above
    int32_t question;
  };

  Anchor end_of(int64_t place) const;
  void list_thresholds(const AnchorKeys& keys, int64_t first_question);
  // The same step as the kernels find. Never falls while `lower` rises; 0 where it is NaN.
  int32_t step_of(float lower) const {
    const float place = (lower - low_) * per_unit_;
    return place > 0 ? static_cast<int32_t>(place < last_ ? place : last_) : 0;
  }
  int64_t place(const Query& query, int64_t step, const KeyWindow& window, const uint8_t* wanted);
  void want_steps(const AnchorKeys& keys);
  bool find(const Query& query, int64_t first_question);
  bool link(int64_t k, int32_t column, size_t most);
  void rank_all(const Query& query, int64_t twins, const Pick* own);

  Picker<T>& picker_;
  std::vector<Anchor> anchors_;
  std::vector<Question> questions_;
  std::vector<Request> requests_;
  std::vector<Link> links_;
  std::vector<Pick> scored_;                // by request
  std::vector<int32_t> order_, block_end_;  // requests by block of columns
  std::vector<Pick> twins_;                 // of own columns, by anchor
  std::vector<Pick> ranked_;                // all negatives of an anchor, nearest first
  std::vector<Pick> picks_;                 // of few thresholds
  std::vector<int32_t> block_rows_;
  std::vector<double> block_scores_;

  // Of one anchor. A column is above, for sure, as many of the ascending thresholds as it is counted for.
  std::vector<Threshold> thresholds_, unsorted_;
  std::vector<float> sure_;                  // theirs, and NaN behind them
  float low_ = 0, per_unit_ = 0, last_ = 0;  // of equal steps over the thresholds' range; the last one's number
  std::vector<int32_t> step_of_;             // of each that is not sorted
  std::vector<int32_t> step_begin_;          // [steps + 2] thresholds before a step
  std::vector<uint8_t> wanted_;              // [steps] whether a key in it may be the nearest above some threshold
  // By key in the window, whose columns are in Query::found: the thresholds that it is above, key - width, key + width.
  std::vector<int32_t> below_;
  std::vector<float> lower_, upper_;
  std::vector<int32_t> kept_;   // of these, what may be the nearest above some threshold
  std::vector<float> nearest_;  // [thresholds + 1] the smallest key + width of the columns of a count
  std::vector<float> limits_;   // [thresholds + 1] of key - width, for the last threshold of a count
  std::vector<float> floors_;   // [thresholds + 1] of key + width, for the next threshold after a count
};

}  // namespace fasttriplet::cpu
