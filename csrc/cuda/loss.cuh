// From mined distances to losses, slopes and the reduction (core/loss.h). Sums are taken in a fixed order: over the
// triplets of a chunk, then over chunks. Of batch-hard an anchor is a triplet.
#pragma once

#include "core/loss.h"
#include "cuda/block_sum.cuh"
#include "cuda/state.cuh"

namespace fasttriplet::cuda {

struct LossSum {
  double total;
  int64_t counted, nonzero;
};

FT_DEVICE LossSum plus(const LossSum& a, const LossSum& b) {
  return {a.total + b.total, a.counted + b.counted, a.nonzero + b.nonzero};
}

inline constexpr int64_t kLossChunk = 1024;  // triplets

// Whether a row that takes part is not finite: the call that mined says so, or, of triplets mined before, a number.
struct Poison {
  State* state;          // or null
  const double* number;  // [], NaN

  FT_DEVICE bool found() const { return state != nullptr ? state->bad_rows > 0 : std::isnan(*number); }
};

// d loss / d d_ap, and d loss / d d_an. Without the latter, which is then understood as the former negated, both stand
// for what may be missing; with it each is 0 where there is none.
struct Slopes {
  double* to_positive;  // [T]
  double* to_negative;  // [T] or null

  FT_DEVICE void write(int64_t i, double slope, bool has_positive, bool has_negative) const {
    to_positive[i] = has_positive || to_negative == nullptr ? slope : 0;
    if (to_negative != nullptr) to_negative[i] = has_negative ? -slope : 0;
  }
  FT_DEVICE void divide(int64_t i, double divisor) const {
    to_positive[i] = to_positive[i] / divisor;
    if (to_negative != nullptr) to_negative[i] = to_negative[i] / divisor;
  }
};

// Losses and slopes of the triplets, before the reduction's count; a chunk's sum.
template <typename T>
struct LossOfMined {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  static constexpr int kSharedBytes = kThreads * static_cast<int>(sizeof(LossSum));
  const int64_t* positives;  // [T], -1 where there is none
  const int64_t* negatives;  // [T], likewise
  const double* distances;   // [2, T]
  int64_t n;                 // triplets
  LossOptions options;
  Poison poison;
  T* losses;  // [T], or null
  Slopes slopes;
  LossSum* sums;  // [chunks]

  FT_DEVICE void operator()() const {
    const bool poisoned = poison.found();
    for (int64_t chunk = block_index(); chunk * kLossChunk < n; chunk += block_count()) {
      LossSum own = {0, 0, 0};
      const int64_t end = (chunk + 1) * kLossChunk < n ? (chunk + 1) * kLossChunk : n;
      for (int64_t i = chunk * kLossChunk + thread_index(); i < end; i += kThreads) {
        const bool has_positive = positives[i] >= 0, has_negative = negatives[i] >= 0;
        const bool counts = anchor_counts(has_positive, has_negative, options.on_missing);
        const AnchorLoss anchor = anchor_loss(counts, has_positive, distances[i], distances[n + i], options, poisoned);
        own = plus(own, {anchor.loss, counts, anchor.loss != 0});  // NaN is not zero
        if (losses != nullptr) losses[i] = static_cast<T>(anchor.loss);
        slopes.write(i, anchor.slope, has_positive, has_negative);
        if (poison.state != nullptr && options.on_missing == OnMissing::kError && !(has_positive && has_negative)) {
          atomic_add(&poison.state->missing, 1);
          poison.state->first_missing.offer(i, n);
        }
      }
      const LossSum& sum = block_sum<kThreads>(own);
      if (thread_index() == 0) sums[chunk] = sum;
    }
  }
};

// The reduced loss; slopes divided by its count. Every block adds the chunks up for itself.
template <typename T>
struct ReduceLoss {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  static constexpr int kSharedBytes = kThreads * static_cast<int>(sizeof(LossSum));
  int64_t n;  // triplets
  LossOptions options;
  Poison poison;
  const LossSum* sums;  // [chunks]
  Slopes slopes;
  T* loss;  // []

  FT_DEVICE void operator()() const {
    LossSum own = {0, 0, 0};
    for (int64_t chunk = thread_index(); chunk * kLossChunk < n; chunk += kThreads) own = plus(own, sums[chunk]);
    const LossSum sum = block_sum<kThreads>(own);
    const int64_t count = options.reduction == Reduction::kMean          ? sum.counted
                          : options.reduction == Reduction::kMeanNonzero ? sum.nonzero
                                                                         : 0;
    const double divisor = count == 0 ? 1 : static_cast<double>(count);
    const double total = poison.found() ? not_a_number() : sum.total;
    if (block_index() == 0 && thread_index() == 0) *loss = static_cast<T>(total / divisor);
    if (count == 0) return;
    const Walk walk = walk_by_thread<ReduceLoss>();
    for (int64_t i = walk.first; i < n; i += walk.stride) slopes.divide(i, divisor);
  }
};

}  // namespace fasttriplet::cuda
