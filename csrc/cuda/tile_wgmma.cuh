// A tile of products by Hopper's warpgroup instructions, bfloat16 entries and float32 sums, for sm_90a. Only where it
// is asked for, until it has been measured on a GPU.
//
// 128 x 128 by two warpgroups, each 64 x 128 with wgmma.m64n128k16, 64 sums a lane. The copy engine brings boxes of 128
// rows x 64 entries, 16 KB, into shared memory, zeros beyond the batch, kStages deep: 96 KB, two blocks on a
// multiprocessor. A row's 128 bytes there are eight chunks of 16; chunk c lies at c ^ (row % 8), the swizzle of 128
// bytes that both the copy engine and wgmma know.
#pragma once

#include "cuda/prepare.cuh"
#include "cuda/tile.cuh"

namespace fasttriplet::cuda {

struct WgmmaTile {
  using Entry = BFloat16;
  struct Source {
    TileMap map;
    int depth;
  };
  static constexpr int kSize = 128, kDepth = 64, kDepthStep = 8, kStages = 3;
  using Sums = Part<16, kSize>;
  using Layout = Warps<kSize, Sums>;
  static constexpr int kThreads = Layout::kThreads, kMinBlocks = 2;
  static constexpr int kOperandBytes = kSize * kDepth * static_cast<int>(sizeof(Entry));
  static constexpr int kBarrierBytes = 1024;  // of which a few are used; what follows stays aligned
  static constexpr int kBufferBytes = kStages * 2 * kOperandBytes + kBarrierBytes;
  static_assert(kDepth * sizeof(Entry) == 128, "a row of a box is as long as the swizzle");

  static double product_error(int64_t d) { return tensor_core_error(d); }

  // Rows of tile number row_tile times rows of column_tile; beyond the last row are zeros. `buffer` is aligned to 1024
  // bytes, which the swizzle starts from.
  static FT_DEVICE void multiply(const Source& source, int row_tile, int column_tile, char* buffer, Sums& sums) {
#pragma unroll
    for (int r = 0; r < Sums::kRowsOfLane; ++r)
#pragma unroll
      for (int c = 0; c < Sums::kColumnsOfLane; ++c) sums.dot[r][c] = 0;
    uint64_t* const arrived = reinterpret_cast<uint64_t*>(buffer + kStages * 2 * kOperandBytes);  // [kStages]
    const int steps = (source.depth + kDepth - 1) / kDepth;
    if (thread_index() == 0)
      for (int stage = 0; stage < kStages; ++stage) arrival_start(arrived + stage);
    fence_async();  // what threads have written or read here, before the copy engine writes
    block_barrier();
    const auto load = [&](int step) {  // by one thread
      char* const stage = buffer + step % kStages * (2 * kOperandBytes);
      arrival_expect(arrived + step % kStages, 2 * kOperandBytes);
      copy_box(stage, source.map, step * kDepth, row_tile * kSize, arrived + step % kStages);
      copy_box(stage + kOperandBytes, source.map, step * kDepth, column_tile * kSize, arrived + step % kStages);
    };
    if (thread_index() == 0)
      for (int step = 0; step < kStages - 1 && step < steps; ++step) load(step);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      arrival_wait(arrived + step % kStages, step / kStages % 2);
      const char* const stage = buffer + step % kStages * (2 * kOperandBytes);
      const char* const rows = stage + warp_index() / 4 * (kOperandBytes / 2);
      group_begin();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) group_multiply_add(sums.dot, rows + 32 * k, stage + kOperandBytes + 32 * k);
      group_commit();
      group_wait<1>();  // the products before these are done
      block_barrier();  // for all: their stage may be overwritten
      if (thread_index() == 0 && step + kStages - 1 < steps) load(step + kStages - 1);
    }
    group_wait<0>();
    block_barrier();  // all have done with the buffer
    if (thread_index() == 0)
      for (int stage = 0; stage < kStages; ++stage) arrival_end(arrived + stage);
  }
};

}  // namespace fasttriplet::cuda
