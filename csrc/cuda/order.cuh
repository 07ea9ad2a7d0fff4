// Stable sorting by key, and the classes in sorted labels.
#pragma once

#include "cuda/state.cuh"

namespace fasttriplet::cuda {

// Up to this many keys are ranked by counting, one launch of n^2 comparisons, some microseconds; more are left to a
// radix sort.
inline constexpr int64_t kRankedKeys = 2048;

// order[rank of i] = i, equal keys by index.
struct RankKeys {
  static constexpr int kThreads = 64, kMinBlocks = 1;
  static constexpr int kSharedBytes = kThreads * sizeof(uint64_t);
  const uint64_t* keys;  // [N]
  int64_t n;
  int32_t* order;  // [N]

  FT_DEVICE void operator()() const {
    uint64_t* const tile = reinterpret_cast<uint64_t*>(shared_memory());
    for (int64_t first = block_index() * kThreads; first < n; first += block_count() * kThreads) {
      const int64_t i = first + thread_index();
      const uint64_t own = i < n ? keys[i] : 0;
      int64_t rank = 0;
      for (int64_t begin = 0; begin < n; begin += kThreads) {
        if (begin + thread_index() < n) tile[thread_index()] = keys[begin + thread_index()];
        block_barrier();
        const int64_t length = n - begin < kThreads ? n - begin : kThreads;
        for (int64_t k = 0; k < length; ++k) rank += tile[k] < own || (tile[k] == own && begin + k < i);
        block_barrier();
      }
      if (i < n) order[rank] = static_cast<int32_t>(i);
    }
  }
};

// 0, 1, 2, ...: what a radix sort carries along.
struct CountUp {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  int32_t* values;  // [N]
  int64_t n;

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_thread<CountUp>();
    for (int64_t i = walk.first; i < n; i += walk.stride) values[i] = static_cast<int32_t>(i);
  }
};

// First position in order whose key is not below `key`, or, with kAbove, is above it.
template <bool kAbove>
FT_DEVICE int64_t bound_of(const uint64_t* keys, const int32_t* order, int64_t n, uint64_t key) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    const uint64_t at = keys[order[middle]];
    if (kAbove ? at <= key : at < key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// A class is known by its first position: ascending in sorted order.
struct FindClasses {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  const uint64_t* labels;  // [N]
  const int32_t* order;    // [N]
  const uint8_t* finite;   // [N] by row
  int64_t n;
  int32_t* begin;        // [N] by position
  int32_t* end;          // [N] by position
  Lowest* bad_of_class;  // [N] by class, zero at first: its lowest row that is not finite
  State* state;

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_thread<FindClasses>();
    for (int64_t r = walk.first; r < n; r += walk.stride) {
      const int64_t i = order[r];
      const uint64_t label = labels[i];
      begin[r] = static_cast<int32_t>(bound_of<false>(labels, order, n, label));
      end[r] = static_cast<int32_t>(bound_of<true>(labels, order, n, label));
      if (state->bad_rows == 0) continue;
      if (!finite[i]) {
        bad_of_class[begin[r]].offer(i, n);
        if (label != labels[state->bad.get(n)]) state->bad_of_other_class.offer(i, n);
      }
      if (label != labels[0]) state->other_class.offer(i, n);
    }
  }
};

}  // namespace fasttriplet::cuda
