// The exact score of two rows in float64, from the values given: 16 lanes a pair.
//
// The lanes are the eight lanes and two chains over which cpu/kernels/exact-inl.h sums, in the same order, with nothing
// fused (the library is compiled with -fmad=false): a score has the same bits here and there, and so do ties.
#pragma once

#include "core/distance.h"
#include "cuda/ahead.cuh"
#include "cuda/state.cuh"

namespace fasttriplet::cuda {

inline constexpr int kGroup = 16;  // lanes of a pair

FT_DEVICE int group_lane() { return lane_index() % kGroup; }
FT_DEVICE int group_of_warp() { return lane_index() / kGroup; }

template <typename T>
struct ExactRows {
  const T* rows;  // [N, D]
  int64_t d;
  const double* factors;  // [N] or null

  FT_DEVICE double factor(int64_t i) const { return factors != nullptr ? factors[i] : 1; }
};

template <typename Kind>
FT_DEVICE double score_term(double x, double y, double x_factor, double y_factor) {
  if constexpr (Kind::kProduct) return x * y;
  if constexpr (Kind::kNormalised) {
    x = x * x_factor;
    y = y * y_factor;
  }
  const double difference = x - y;
  return difference * difference;
}

// From the sums of kLanes lanes to the score, the same in all of them; of eight lanes each brings the sum of its two
// chains. The whole warp must come.
template <typename Kind, int kLanes = kGroup>
FT_DEVICE double score_of_sums(double sum, double x_factor, double y_factor) {
#pragma unroll
  for (int stride = kLanes / 2; stride > 0; stride /= 2) sum = sum + shuffle_xor(sum, stride);
  if constexpr (Kind::kProduct) return -sum;
  if constexpr (Kind::kRoot) return sqrt(sum);
  if constexpr (Kind::kNormalised) return x_factor == 0 || y_factor == 0 ? 1 : sum / 2;
  return sum;
}

// Calls f(k) for the entries of this lane, in order: eight by eight in turn to the even and the odd chain, the last,
// incomplete eight to the odd one.
template <typename F>
FT_DEVICE void for_entries_of_lane(int64_t d, F&& f) {
  const int64_t whole = d / 8 * 8;
  const int lane = group_lane();
#pragma unroll 4
  for (int64_t k = lane; k < whole; k += kGroup) f(k);
  if (lane >= 8 && whole + lane - 8 < d) f(whole + lane - 8);
}

// A candidate at D = 2048 is 128 steps a lane, and with as many trips to memory it would take longer than all else a
// small batch does: 16 entries of either row are in flight. The order is that of for_entries_of_lane.
template <typename Kind, typename T>
FT_DEVICE double score(const ExactRows<T>& exact, int64_t i, int64_t j) {
  constexpr int kAhead = 16;
  struct Entries {
    T x, y;
  };
  const double x_factor = exact.factor(i), y_factor = exact.factor(j);
  const int lane = group_lane();
  const T *x = exact.rows + i * exact.d + lane, *y = exact.rows + j * exact.d + lane;
  const int64_t whole = exact.d / 8 * 8;
  const bool has_last = lane >= 8 && whole + lane - 8 < exact.d;
  Entries last = {};
  if (has_last) last = {x[whole - 8], y[whole - 8]};
  double sum = 0;
  const auto add = [&](const Entries& at) {
    sum = sum + score_term<Kind>(static_cast<double>(at.x), static_cast<double>(at.y), x_factor, y_factor);
  };
  use_loaded<kAhead>(
      static_cast<int>((whole - lane + kGroup - 1) / kGroup),
      [&](int s) { return Entries{x[s * kGroup], y[s * kGroup]}; }, add);
  if (has_last) add(last);
  return score_of_sums<Kind>(sum, x_factor, y_factor);
}

// The winner of a search so far; `score` is negated where the farthest is looked for.
struct Winner {
  int64_t row;  // -1: none
  double score;

  FT_DEVICE void meet(int64_t other, double other_score) {
    if (row < 0 || goes_before(other_score, other, score, row)) {
      row = other;
      score = other_score;
    }
  }
  FT_DEVICE void meet_if_any(const Winner& other) {
    if (other.row >= 0) meet(other.row, other.score);
  }
};

}  // namespace fasttriplet::cuda
