// Semi-hard mining: each positive of an anchor with the nearest negative that is farther.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/options.h"
#include "cpu/rows/pairing.h"
#include "cpu/scan/beyond.h"
#include "cpu/scan/picks.h"

namespace fasttriplet::cpu {

struct PositivePick {
  int64_t positive;  // candidate
  double distance;   // to it
  Pick negative;
};

// What a semi-hard miner takes for a threshold, given the nearest negative above it, if there is one.
template <typename T>
class SemiHardRule {
 public:
  SemiHardRule(Picker<T>& picker, const MinerOptions& options) : picker_(picker), options_(options) {}

  void begin() { farthest_known_ = false; }  // another anchor
  Pick operator()(const Query& query, double threshold, const Pick& nearest);

 private:
  Picker<T>& picker_;
  const MinerOptions& options_;
  Pick farthest_;  // negative of the anchor, for all its thresholds
  bool farthest_known_ = false;
};

// Memory of its own is for some anchors of a strip and their positives, at least one and else kQuestions in all.
template <typename T>
class SemiHardMiner {
 public:
  SemiHardMiner(Picker<T>& picker, const Pairing& pairing, const MinerOptions& options)
      : picker_(picker), pairing_(pairing), beyond_(picker), rule_(picker, options) {}

  // Calls visit(anchor, one for each of its positives, ascending) for the anchors of a strip, in their order. False
  // where a visit was, after which there is none.
  using Visit = std::function<bool(int32_t anchor, const std::vector<PositivePick>& pairs)>;
  bool mine(const Strip& strip, const Visit& visit);

 private:
  static constexpr int64_t kQuestions = 1 << 16;

  // Columns of one kind of an anchor's positives.
  struct Columns {
    int32_t kind, anchor;
    int64_t first;  // of their scores among scores_
  };
  int64_t choose(const Strip& strip, int64_t begin);
  void score_positives();
  void ask(Query& query, int64_t first);
  void answer(const Query& query, int64_t place, int64_t first);

  // Calls f(column, its score) for columns of an anchor's positives, whose scores begin at `first`.
  template <typename F>
  void for_each_threshold(const Query& query, int64_t first, F&& f) const {
    const Groups& columns = pairing_.columns();
    pairing_.for_each_positive_kind(query.anchor, [&](int32_t kind) {
      for (int32_t column = columns.representative_begin[kind]; column < columns.representative_begin[kind + 1];
           ++column, ++first)
        if (!query.own.is_alone(column)) f(column, scores_[first]);
    });
  }

  Picker<T>& picker_;
  const Pairing& pairing_;
  NegativesBeyond<T> beyond_;
  SemiHardRule<T> rule_;
  std::vector<Columns> kinds_;
  std::vector<int64_t> first_of_;   // [anchors chosen] into scores_
  std::vector<double> scores_;      // of the positives' columns: a row's is that of its column
  std::vector<OwnColumns> own_;     // [anchors chosen]
  std::vector<double> thresholds_;  // of one anchor
  std::vector<int32_t> threshold_of_column_;
  std::vector<Pick> picks_;  // by threshold
  std::vector<PositivePick> pairs_;
};

}  // namespace fasttriplet::cpu
