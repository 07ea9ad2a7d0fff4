// Kernels that share a launch: every launch costs about a microsecond, and a small batch has little else to wait for.
#pragma once

#include "cuda/device.cuh"

namespace fasttriplet::cuda {

// Two kernels that do not need each other, or of which a thread's part of the second needs that thread's part of the
// first only: every block does its share of both.
template <typename First, typename Second>
struct Together {
  static constexpr int kThreads = First::kThreads, kMinBlocks = 1;
  static constexpr int kSharedBytes =
      kSharedBytesOf<First> > kSharedBytesOf<Second> ? kSharedBytesOf<First> : kSharedBytesOf<Second>;
  static_assert(kThreads == Second::kThreads, "kernels of one launch have equal blocks");
  First first;
  Second second;

  FT_DEVICE void operator()() const {
    first();
    second();
  }
};

// A kernel, and one for one block that needs all of it: the last block to come does that.
template <typename First, typename Last>
struct ThenOneBlock {
  static constexpr int kThreads = First::kThreads, kMinBlocks = 1;
  static constexpr int kSharedBytes =
      kSharedBytesOf<First> > kSharedBytesOf<Last> ? kSharedBytesOf<First> : kSharedBytesOf<Last>;
  static_assert(kThreads == Last::kThreads, "kernels of one launch have equal blocks");
  First first;
  Last last;
  uint32_t* arrived;  // zero at first

  FT_DEVICE void operator()() const {
    first();
    if (last_of_blocks(arrived, static_cast<uint32_t>(block_count()))) last();
  }
};

}  // namespace fasttriplet::cuda
