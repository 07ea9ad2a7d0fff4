// First look at the rows: which are finite, the largest entry, and what normalises each for cosine.
#pragma once

#include "core/prepare.h"
#include "cuda/ahead.cuh"
#include "cuda/state.cuh"

namespace fasttriplet::cuda {

// One lane's share of a row, then, after `join`, the row's: the same in all lanes of the row.
struct RowSums {
  double largest = 0, square = 0, defect = 0;  // max |x|, sum x^2; the last is NaN unless every entry is finite

  FT_DEVICE void add(double x) {
    square = square + x * x;
    largest = larger_of(largest, x < 0 ? -x : x);
    defect = defect + (x - x);
  }
  template <int kLanes>
  FT_DEVICE void join() {
    for (int stride = kLanes / 2; stride > 0; stride /= 2) {
      square = square + shuffle_xor(square, stride);
      largest = larger_of(largest, shuffle_xor(largest, stride));
      defect = defect + shuffle_xor(defect, stride);
    }
  }
  FT_DEVICE bool finite() const { return defect == 0; }
  template <typename T>
  FT_DEVICE double factor(const T* row, int64_t d) const {
    return finite() ? normalising_factor(row, d, largest, square) : 0;
  }
};

// Eight lanes a row, so that the sum of squares has the order of cpu/kernels/exact-inl.h and a factor the same bits. At
// D = 2048 that is 256 entries a lane in a fixed order: 32 of them are in flight, eight trips to memory instead of 64.
template <typename T>
struct SurveyRows {
  static constexpr int kThreads = 256, kMinBlocks = 1, kLanes = 8, kRowsOfWarp = kWarp / kLanes;
  static constexpr int kAhead = 32;
  const T* rows;  // [N, D]
  int64_t n, d;
  double* factors;                   // [N] 1 / |x|, or null: not normalised
  uint8_t* finite;                   // [N]
  State* state;                      // or null: what the rows have in common is not asked for
  const uint64_t* labels = nullptr;  // [N] or null: none is ignored
  uint64_t ignored = 0;              // rows of this label count as not finite, but as nothing bad

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_warp<SurveyRows>();
    const int group = lane_index() / kLanes, lane = lane_index() % kLanes;
    double most = 0;
    for (int64_t base = walk.first * kRowsOfWarp; base < n; base += walk.stride * kRowsOfWarp) {
      const int64_t i = base + group;
      RowSums sums;
      const T* const row = rows + i * d + lane;
      use_loaded<kAhead>(
          i < n ? static_cast<int>((d - lane + kLanes - 1) / kLanes) : 0, [&](int s) { return row[s * kLanes]; },
          [&](T entry) { sums.add(static_cast<double>(entry)); });
      sums.join<kLanes>();
      if (i >= n || lane != 0) continue;
      const bool takes_part = labels == nullptr || labels[i] != ignored, good = sums.finite() && takes_part;
      finite[i] = good;
      if (!good && takes_part && state != nullptr) {
        atomic_add(&state->bad_rows, 1);
        state->bad.offer(i, n);
      }
      double factor = 1;
      if (factors != nullptr) factors[i] = factor = sums.factor(rows + i * d, d);
      if (good) most = larger_of(most, sums.largest * factor);
    }
    for (int stride = kWarp / 2; stride > 0; stride /= 2) most = larger_of(most, shuffle_xor(most, stride));
    if (lane_index() == 0 && most > 0 && state != nullptr) atomic_maximum(&state->largest, most);
  }
};

}  // namespace fasttriplet::cuda
