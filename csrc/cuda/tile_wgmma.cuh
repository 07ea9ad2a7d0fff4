// Tiles of products by Hopper's warpgroup instructions, bfloat16 entries and float32 sums, for sm_90a. Only where they
// are asked for, until they have been measured on a GPU.
//
// A block has 128 rows and all columns of a tile, by two warpgroups of 64 rows each with wgmma.m64n128k16 or n256. The
// copy engine brings boxes of 128 rows x 64 entries, 16 KB, into shared memory, zeros beyond the batch. A row's 128
// bytes there are eight chunks of 16; chunk c lies at c ^ (row % 8), the swizzle of 128 bytes that both the copy engine
// and wgmma know.
//
// One block, 128 x 128: 64 sums a lane, three stages, 96 KB, two blocks on a multiprocessor. It does 64 operations for
// a byte that it reads from the second-level cache, whose 5.5 TB/s then bind at about 350 TFLOP/s.
//
// Two blocks, 256 x 256: 128 sums a lane, four stages of 48 KB, one block on a multiprocessor. Each block brings its
// own rows and half of the columns, and the copy engine writes those into the shared memory of both: 128 operations
// for a byte.
//
// A stage is filled when its bytes have come, and free when every warp of the tile, of both blocks, has done with it.
// The products that a block then keeps in the buffer are in the way of its own next tile, and, where the other block
// writes into it too, of that one's: before a tile starts both have emptied their buffers.
#pragma once

#include "cuda/prepare.cuh"
#include "cuda/tile.cuh"

namespace fasttriplet::cuda {

template <int kTileBlocks, int kTileStages, int kTileMinBlocks>
struct WgmmaTile {
  using Entry = BFloat16;
  static constexpr bool kByWarpgroups = true;
  struct Source {
    TileMap map;
    int depth;
  };
  static constexpr int kBlocks = kTileBlocks, kRows = kBoxRows, kSize = kBlocks * kRows;
  static constexpr int kDepth = kBoxEntries, kDepthStep = 8, kStages = kTileStages;
  using Sums = Part<16, kSize>;
  using Layout = Warps<kRows, kSize, Sums>;
  static constexpr int kThreads = Layout::kThreads, kMinBlocks = kTileMinBlocks;
  static constexpr int kBoxBytes = kRows * kDepth * static_cast<int>(sizeof(Entry));
  static constexpr int kStageBytes = (1 + kBlocks) * kBoxBytes;  // rows, then columns
  static constexpr int kBarrierBytes = 1024;                     // of which a few are used; what follows stays aligned
  static constexpr int kBufferBytes = kStages * kStageBytes + kBarrierBytes;
  static_assert(kDepth * sizeof(Entry) == 128, "a row of a box is as long as the swizzle");
  static_assert(kSize * kRows * static_cast<int>(sizeof(float)) <= kStages * kStageBytes,
                "products spare the barriers");

  // The stage of a step, the parity of the phase in which it is filled, and that of the tile.
  struct Pipeline {
    int stage, parity, tile;

    FT_DEVICE Pipeline after(int steps) const {
      const int sum = stage + steps;
      return {sum % kStages, parity ^ (sum / kStages % 2), tile};
    }
  };

  static double product_error(int64_t d) { return tensor_core_error(d); }
  static FT_DEVICE int rank() { return kBlocks > 1 ? cluster_rank() : 0; }

  // `buffer` is aligned to 1024 bytes, which the swizzle starts from.
  static FT_DEVICE Pipeline open(char* buffer) {
    if (thread_index() == 0)
      for (int stage = 0; stage < kStages; ++stage) {
        arrival_start(filled(buffer) + stage, 1);
        arrival_start(freed(buffer) + stage, kThreads / kWarp * kBlocks);
      }
    if (thread_index() == 0) arrival_start(emptied(buffer), kBlocks);
    all_barrier();
    return {0, 0, 0};
  }

  static FT_DEVICE void close(char* buffer) {
    all_barrier();  // nobody has anything more to tell this block
    if (thread_index() == 0)
      for (int stage = 0; stage < kStages; ++stage) {
        arrival_end(filled(buffer) + stage);
        arrival_end(freed(buffer) + stage);
      }
    if (thread_index() == 0) arrival_end(emptied(buffer));
  }

  static FT_DEVICE void start(const Source& source, int row_tile, int column_tile, char* buffer, Pipeline& pipeline) {
    if (thread_index() != 0) return;
    // By the tile before, whose products may lie where it had no steps; before the first it is empty. A block alone has
    // seen to that itself.
    if constexpr (kBlocks > 1) arrival_wait(emptied(buffer), pipeline.tile ^ 1);
    const int steps = steps_of(source.depth);
    for (int step = 0; step < kStages && step < steps; ++step)
      load(source, row_tile, column_tile, step, buffer, pipeline);
  }

  static FT_DEVICE void abandon(const Source& source, char* buffer, Pipeline& pipeline) {
    const int steps = steps_of(source.depth) < kStages ? steps_of(source.depth) : kStages;
    for (int step = 0; step < steps; ++step) wait_filled(buffer, pipeline.after(step));
    warp_barrier();                            // a warp frees a stage for all of its lanes
    finish(kDepth * steps, buffer, pipeline);  // as if these had been all
  }

  // Rows of tile number row_tile times rows of column_tile; beyond the last row are zeros.
  static FT_DEVICE void multiply(const Source& source, int row_tile, int column_tile, char* buffer, Pipeline& pipeline,
                                 Sums& sums) {
#pragma unroll
    for (int r = 0; r < Sums::kRowsOfLane; ++r)
#pragma unroll
      for (int c = 0; c < Sums::kColumnsOfLane; ++c) sums.dot[r][c] = 0;
    const int steps = steps_of(source.depth);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const Pipeline own = pipeline.after(step);
      wait_filled(buffer, own);
      const char* const stage = buffer + own.stage * kStageBytes;
      const char* const rows = stage + warp_index() / 4 * (kBoxBytes / 2);
      hold_sums(sums.dot);
      group_begin();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) group_multiply_add(sums.dot, rows + 32 * k, stage + kBoxBytes + 32 * k);
      group_commit();
      group_wait<1>();                      // the products of the step before are done, of all lanes of the warp
      const int next = step - 1 + kStages;  // takes the place of that step
      if (step == 0 || next >= steps) continue;
      free_stage(buffer, pipeline.after(step - 1));
      if (thread_index() == 0) load(source, row_tile, column_tile, next, buffer, pipeline);
    }
    group_wait<0>();
    hold_sums(sums.dot);  // nothing is done with them before
    block_barrier();      // the buffer is free for what the block has to keep
  }

  // What this thread has read and written in the buffer, before the copy engine writes there.
  static FT_DEVICE void leave() { fence_async(); }

  // All threads of the block have left the buffer.
  static FT_DEVICE void finish(int depth, char* buffer, Pipeline& pipeline) {
    const int steps = steps_of(depth);
    for (int step = steps > kStages ? steps - kStages : 0; step < steps; ++step)
      free_stage(buffer, pipeline.after(step));
    if (thread_index() < kBlocks) arrive_at(emptied(buffer), thread_index());
    pipeline = pipeline.after(steps);
    pipeline.tile ^= 1;
  }

 private:
  static FT_DEVICE int steps_of(int depth) { return (depth + kDepth - 1) / kDepth; }
  static FT_DEVICE uint64_t* filled(char* buffer) {  // [kStages]
    return reinterpret_cast<uint64_t*>(buffer + kStages * kStageBytes);
  }
  static FT_DEVICE uint64_t* freed(char* buffer) { return filled(buffer) + kStages; }  // [kStages]
  static FT_DEVICE uint64_t* emptied(char* buffer) { return freed(buffer) + kStages; }
  static FT_DEVICE void all_barrier() {
    if constexpr (kBlocks > 1)
      cluster_barrier();
    else
      block_barrier();
  }

  static FT_DEVICE void wait_filled(char* buffer, const Pipeline& place) {
    arrival_wait(filled(buffer) + place.stage, place.parity);
  }
  // By every warp, all of which has done with it; for all blocks that fill it.
  static FT_DEVICE void free_stage(char* buffer, const Pipeline& place) {
    if (lane_index() < kBlocks) arrive_at(freed(buffer) + place.stage, lane_index());
  }

  // By one thread. The first time a stage is free from the start: the phase before the first has ended.
  static FT_DEVICE void load(const Source& source, int row_tile, int column_tile, int step, char* buffer,
                             const Pipeline& pipeline) {
    const Pipeline place = pipeline.after(step);
    arrival_wait(freed(buffer) + place.stage, place.parity ^ 1);
    char* const stage = buffer + place.stage * kStageBytes;
    uint64_t* const arrived = filled(buffer) + place.stage;
    const int own = rank() * kRows, k = step * kDepth;
    arrival_expect(arrived, kStageBytes);
    copy_box(stage, source.map, k, row_tile * kSize + own, arrived);
    char* const columns = stage + kBoxBytes + rank() * kBoxBytes;
    if constexpr (kBlocks > 1)
      copy_box_to_both(columns, source.map, k, column_tile * kSize + own, arrived);
    else
      copy_box(columns, source.map, k, column_tile * kSize, arrived);
  }
};

using WgmmaBlockTile = WgmmaTile<1, 3, 2>;
using WgmmaPairTile = WgmmaTile<2, 4, 1>;

}  // namespace fasttriplet::cuda
