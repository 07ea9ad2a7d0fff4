// From mined distances to losses, slopes and the reduction (core/loss.h). Sums are taken in a fixed order: over the
// anchors of a chunk, then over chunks.
#pragma once

#include "core/loss.h"
#include "cuda/block_sum.cuh"
#include "cuda/settle.cuh"

namespace fasttriplet::cuda {

struct LossSum {
  double total;
  int64_t counted, nonzero;
};

FT_DEVICE LossSum plus(const LossSum& a, const LossSum& b) {
  return {a.total + b.total, a.counted + b.counted, a.nonzero + b.nonzero};
}

inline constexpr int64_t kLossChunk = 1024;  // anchors

// Losses and slopes of the anchors, before the reduction's count; a chunk's sum.
template <typename T>
struct LossOfAnchors {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  static constexpr int kSharedBytes = kThreads * static_cast<int>(sizeof(LossSum));
  Mined mined;
  int64_t n;
  LossOptions options;
  State* state;
  T* losses;       // [N], or null
  double* slopes;  // [N]
  LossSum* sums;   // [chunks]

  FT_DEVICE void operator()() const {
    const bool poisoned = state->bad_rows > 0;
    for (int64_t chunk = block_index(); chunk * kLossChunk < n; chunk += block_count()) {
      LossSum own = {0, 0, 0};
      const int64_t end = (chunk + 1) * kLossChunk < n ? (chunk + 1) * kLossChunk : n;
      for (int64_t i = chunk * kLossChunk + thread_index(); i < end; i += kThreads) {
        const bool has_positive = mined.positives[i] >= 0, has_negative = mined.negatives[i] >= 0;
        const bool counts = anchor_counts(has_positive, has_negative, options.on_missing);
        const AnchorLoss anchor =
            anchor_loss(counts, has_positive, mined.distances[i], mined.distances[n + i], options, poisoned);
        own = plus(own, {anchor.loss, counts, anchor.loss != 0});  // NaN is not zero
        if (losses != nullptr) losses[i] = static_cast<T>(anchor.loss);
        slopes[i] = anchor.slope;
        if (options.on_missing == OnMissing::kError && !(has_positive && has_negative)) {
          atomic_add(&state->missing, 1);
          state->first_missing.offer(i, n);
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
  int64_t n;
  LossOptions options;
  const State* state;
  const LossSum* sums;  // [chunks]
  double* slopes;       // [N]
  T* loss;              // []

  FT_DEVICE void operator()() const {
    LossSum own = {0, 0, 0};
    for (int64_t chunk = thread_index(); chunk * kLossChunk < n; chunk += kThreads) own = plus(own, sums[chunk]);
    const LossSum sum = block_sum<kThreads>(own);
    const int64_t count = options.reduction == Reduction::kMean          ? sum.counted
                          : options.reduction == Reduction::kMeanNonzero ? sum.nonzero
                                                                         : 0;
    const double divisor = count == 0 ? 1 : static_cast<double>(count);
    const double total = state->bad_rows > 0 ? not_a_number() : sum.total;
    if (block_index() == 0 && thread_index() == 0) *loss = static_cast<T>(total / divisor);
    if (count == 0) return;
    const Walk walk = walk_by_thread<ReduceLoss>();
    for (int64_t i = walk.first; i < n; i += walk.stride) slopes[i] = slopes[i] / divisor;
  }
};

}  // namespace fasttriplet::cuda
