// For many thresholds of an anchor the nearest negative above each, exactly. A threshold costs the few columns about it,
// and those of several anchors are scored together, block by block of columns: rows come from memory once for all of
// them. What is scored for one threshold of an anchor is not scored again for another.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/scan/binned.h"
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
  void ask(const Query& query, const double* thresholds, int64_t count);
  void settle();
  // Of the anchor that was asked for as number `place`: picks by threshold.
  void answer(int64_t place, const Query& query, std::vector<Pick>& picks);

 private:
  enum class How {
    kPasses,  // few thresholds, answered at once
    kBins,
    kScores,  // of all negatives, since keys tell too few apart
  };
  struct Anchor {
    int64_t row, first_question, first_twin;
    How how;
  };
  struct Question {
    double threshold;
    int64_t end;  // of its candidates in found_
    Pick pick;    // where it is answered
  };
  struct Request {  // of a score
    int32_t place, column;
  };
  void find(const Query& query, double threshold);
  void rank_all(const Query& query, int64_t twins, const Pick* own);

  Picker<T>& picker_;
  BinnedKeys keys_;
  std::vector<Anchor> anchors_;
  std::vector<Question> questions_;
  std::vector<int32_t> found_;  // numbers of requests
  std::vector<Request> requests_;
  std::vector<Pick> scored_;                // by request
  std::vector<int32_t> request_of_;         // by column, of one anchor; -1 for none
  std::vector<int32_t> order_, block_end_;  // requests by block of columns
  std::vector<Pick> twins_;                 // of own columns, by anchor
  std::vector<Pick> ranked_;                // all negatives of an anchor, nearest first
  std::vector<Pick> picks_;                 // of few thresholds
  std::vector<int32_t> near_;               // columns that a threshold meets
};

}  // namespace fasttriplet::cpu
