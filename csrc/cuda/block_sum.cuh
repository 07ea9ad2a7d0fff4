// Sums over a block's threads in a fixed order: no atomic sums, the same bits on every run.
#pragma once

#include "cuda/device.cuh"

namespace fasttriplet::cuda {

// The sum, by `plus`, of what a block's threads bring, in shared memory until that is written again. The order is that
// of a tree over the threads.
template <int kThreads, typename Sum>
FT_DEVICE const Sum& block_sum(const Sum& own) {
  Sum* const sums = reinterpret_cast<Sum*>(shared_memory());
  sums[thread_index()] = own;
  block_barrier();
  for (int stride = kThreads / 2; stride > 0; stride /= 2) {
    if (thread_index() < stride) sums[thread_index()] = plus(sums[thread_index()], sums[thread_index() + stride]);
    block_barrier();
  }
  return sums[0];
}

}  // namespace fasttriplet::cuda
