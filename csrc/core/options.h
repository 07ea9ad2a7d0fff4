// The options of the public functions as codes; fasttriplet/check.py lists their names in the same order.
#pragma once

#include <cstdint>

namespace fasttriplet {

enum class Distance { kEuclidean, kSquaredEuclidean, kCosine, kInnerProduct };
inline constexpr int kDistances = 4;

enum class Reduction { kNone, kSum, kMean, kMeanNonzero };
inline constexpr int kReductions = 4;

enum class OnMissing { kSkip, kZero, kError };
inline constexpr int kOnMissing = 3;

enum class MinerKind { kBatchHard, kSemiHard, kEasyPositive, kEasyPositiveSemiHard, kKHardest };
inline constexpr int kMinerKinds = 5;

// What a semi-hard miner takes where no negative fits: the farthest one, or none.
enum class Otherwise { kFarthest, kSkip };
inline constexpr int kOtherwise = 2;

// What rows of equal group never are to each other: pairs of any kind, or positives.
enum class GroupsExclude { kPairs, kPositives };
inline constexpr int kGroupsExclude = 2;

struct MinerOptions {
  MinerKind kind;
  Otherwise otherwise;  // of the semi-hard kinds, and the next two
  bool within_margin;   // only negatives nearer than the positive's distance + margin
  double margin;
  int64_t k;             // of kKHardest, and the next two
  bool kth_only;         // the k-th alone
  double skip_fraction;  // share of an anchor's nearest negatives that is left out
};

struct LossOptions {
  double margin;
  bool soft_margin;
  Reduction reduction;
  OnMissing on_missing;
};

}  // namespace fasttriplet
