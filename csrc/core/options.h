// The options of the public functions as codes; fasttriplet/check.py lists their names in the same order.
#pragma once

namespace fasttriplet {

enum class Distance { kEuclidean, kSquaredEuclidean, kCosine, kInnerProduct };
inline constexpr int kDistances = 4;

enum class Reduction { kNone, kSum, kMean, kMeanNonzero };
inline constexpr int kReductions = 4;

enum class OnMissing { kSkip, kZero, kError };
inline constexpr int kOnMissing = 3;

struct LossOptions {
  double margin;
  bool soft_margin;
  Reduction reduction;
  OnMissing on_missing;
};

}  // namespace fasttriplet
