// What the kernels use of the device, by name. nvcc gives the names their instructions (device_nvidia.cuh); without it
// tests/native/cuda/device_shim.h runs the same kernels on the host, a fiber a thread.
//
//   thread_index, lane_index, warp_index, block_index, block_count, shared_memory
//   block_barrier, block_any                          all threads of the block
//   last_of_blocks                                    all threads of the block; what the blocks before wrote is visible
//   warp_barrier, warp_any, shuffle_xor               all 32 lanes of the warp, converged
//   atomic_min, atomic_max, atomic_add, compare_and_swap, load_fresh (past the first-level cache)
//   copy_async, copy_async_commit, copy_async_wait    16 bytes from global to shared memory, in the background
//   load_matrices, multiply_add_bf16                  ldmatrix.x4 and mma.m16n8k16, PTX ISA "Warp-level matrix"
//   float_bits, bits_float, double_bits               numbers as their bits and back
//   lowest_bit                                        the number of the lowest bit that is set
//   worked_out_here                                   keeps the compiler from holding what follows from a number
//   add_down, add_up, fused                           float32 sums rounded towards -inf, +inf; a fused multiply-add
//   has_warpgroups                                    whether the architecture has what follows, Hopper's own
//   cluster_rank, cluster_barrier                     of the blocks of a cluster
//   TileMap, copy_box, copy_box_to_both, fence_async  a box of a matrix by the copy engine
//   arrival_start, arrival_expect, arrive_at, arrival_wait, arrival_end   a barrier that counts arrivals and such bytes
//   group_begin, group_multiply_add, group_commit, group_wait    wgmma.m64n128k16 and n256 by four warps
//   hold_sums                                         what follows is not begun before the sums are there
//
// A kernel is a struct: its members are its arguments, operator() its body, kThreads and kMinBlocks its launch bounds,
// kSharedBytes its shared memory, kClusterBlocks how many blocks a cluster has.
// Its grid is as large as suits the machine; every kernel walks its work in strides of the grid.
#pragma once

#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#include "cuda/device_nvidia.cuh"
#else
#include "device_shim.h"
#endif

namespace fasttriplet::cuda {

inline constexpr int kWarp = 32;

// The walk of a grid whose units are warps, or threads.
struct Walk {
  int64_t first, stride;
};
template <typename Kernel>
FT_DEVICE Walk walk_by_warp() {
  constexpr int kWarps = Kernel::kThreads / kWarp;
  return {block_index() * kWarps + warp_index(), block_count() * kWarps};
}
template <typename Kernel>
FT_DEVICE Walk walk_by_thread() {
  return {block_index() * Kernel::kThreads + thread_index(), block_count() * Kernel::kThreads};
}

// Shared memory a block of the kernel needs: kSharedBytes, or none.
template <typename Kernel, typename = void>
inline constexpr int kSharedBytesOf = 0;
template <typename Kernel>
inline constexpr int kSharedBytesOf<Kernel, std::void_t<decltype(Kernel::kSharedBytes)>> = Kernel::kSharedBytes;

// Blocks of a cluster of the kernel: kClusterBlocks, or one.
template <typename Kernel, typename = void>
inline constexpr int kClusterBlocksOf = 1;
template <typename Kernel>
inline constexpr int kClusterBlocksOf<Kernel, std::void_t<decltype(Kernel::kClusterBlocks)>> = Kernel::kClusterBlocks;

// Float32 numbers as unsigned integers in the same order, for atomic minima. Zeros of both signs are equal: sums
// rounded down end with the negative one.
FT_DEVICE uint32_t ordered_bits(float value) {
  const uint32_t bits = value == 0 ? 0 : float_bits(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
FT_DEVICE float ordered_value(uint32_t bits) { return bits_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits); }

FT_DEVICE double not_a_number() { return static_cast<double>(bits_float(0x7fc00000u)); }

// The maximum of non-negative float64 numbers, whose bits are in their order.
FT_DEVICE void atomic_maximum(double* target, double value) {
  atomic_max(reinterpret_cast<uint64_t*>(target), double_bits(value));
}

// The lowest of the indices 0 to n - 1 offered to it, -1 where there was none; zero bytes are its start.
struct Lowest {
  uint32_t reversed;

  FT_DEVICE void offer(int64_t index, int64_t n) { atomic_max(&reversed, static_cast<uint32_t>(n - index)); }
  FT_DEVICE int64_t get(int64_t n) const {
    const uint32_t found = load_fresh(&reversed);
    return found == 0 ? -1 : n - static_cast<int64_t>(found);
  }
};

FT_DEVICE double warp_sum(double value) {
  for (int stride = kWarp / 2; stride > 0; stride /= 2) value = value + shuffle_xor(value, stride);
  return value;
}

}  // namespace fasttriplet::cuda
