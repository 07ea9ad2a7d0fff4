// A tile of products in float32, for any architecture: the oracle, the fallback, and the finer round.
//
// 64 x 64 in 4 warps, a warp 32 x 32, a lane 4 x 8 sums in registers. Per 16 entries of depth the block loads 2 x 64 x
// 16 float32, 8 KB, by way of registers, 16 words a thread: they are under way while the 16 before are multiplied. A
// lane reads 4 words and 4 pairs of words for 32 multiply-adds.
#pragma once

#include "cuda/prepare.cuh"
#include "cuda/tile.cuh"

namespace fasttriplet::cuda {

struct FloatTile : PlainTile {
  using Entry = Float32;
  using Source = PackedRows<Entry>;
  static constexpr int kSize = 64, kDepth = 16, kDepthStep = 4;
  using Sums = Part<32, 32>;
  using Layout = Warps<kSize, kSize, Sums>;
  static constexpr int kThreads = Layout::kThreads, kMinBlocks = 4;
  // Entries by depth, then by row; two words more a line keep the 16-byte loads' stores off one bank.
  static constexpr int kLine = kSize + 2;
  static constexpr int kBufferBytes = 2 * kDepth * kLine * static_cast<int>(sizeof(float));

  static double product_error(int64_t d) { return accumulation_error(d); }

  // Loads through registers: they would be held while the tile's lines are loaded.
  static FT_DEVICE void start(const Source&, int, int, char*, Pipeline&) {}
  static FT_DEVICE void abandon(const Source&, char*, Pipeline&) {}

  // Rows of tile number row_tile times rows of column_tile; beyond the last row are zeros. The depth is a multiple of
  // kDepthStep.
  static FT_DEVICE void multiply(const Source& source, int row_tile, int column_tile, char* buffer, Pipeline&,
                                 Sums& sums) {
    float* const rows = reinterpret_cast<float*>(buffer);
    float* const columns = rows + kDepth * kLine;
#pragma unroll
    for (int r = 0; r < Sums::kRowsOfLane; ++r)
#pragma unroll
      for (int c = 0; c < Sums::kColumnsOfLane; ++c) sums.dot[r][c] = 0;
    Quads next_rows, next_columns;
    next_rows.load(source, row_tile, 0);
    next_columns.load(source, column_tile, 0);
    for (int begin = 0; begin < source.depth; begin += kDepth) {
      next_rows.store(rows);
      next_columns.store(columns);
      block_barrier();
      next_rows.load(source, row_tile, begin + kDepth);
      next_columns.load(source, column_tile, begin + kDepth);
      for (int k = 0; k < kDepth; ++k) {
        float x[Sums::kRowsOfLane], y[Sums::kColumnsOfLane];
#pragma unroll
        for (int r = 0; r < Sums::kRowsOfLane; ++r)
          x[r] = rows[k * kLine + Layout::first_row() + Sums::row(r, lane_index())];
#pragma unroll
        for (int c = 0; c < Sums::kColumnsOfLane; c += 2) {  // neighbours
          const Pair pair = *reinterpret_cast<const Pair*>(columns + k * kLine + Layout::first_column() +
                                                           Sums::column(c, lane_index()));
          y[c] = pair.entry[0];
          y[c + 1] = pair.entry[1];
        }
#pragma unroll
        for (int r = 0; r < Sums::kRowsOfLane; ++r)
#pragma unroll
          for (int c = 0; c < Sums::kColumnsOfLane; ++c) sums.dot[r][c] = fused(x[r], y[c], sums.dot[r][c]);
      }
      block_barrier();
    }
  }

 private:
  struct alignas(8) Pair {
    float entry[2];
  };
  static_assert(kLine % 2 == 0, "pairs are aligned");

  // This thread's share of kDepth entries of an operand: on their way from memory, then into shared memory.
  class Quads {
   public:
    FT_DEVICE void load(const Source& source, int tile, int begin) {
#pragma unroll
      for (int q = 0; q < kCount; ++q) {
        const int64_t r = static_cast<int64_t>(tile) * kSize + row(q);
        const bool inside = r < source.n && begin + k() < source.depth;
        quad_[q] = inside ? *reinterpret_cast<const Quad*>(source.entries + r * source.depth + begin + k()) : Quad();
      }
    }
    FT_DEVICE void store(float* to) const {
#pragma unroll
      for (int q = 0; q < kCount; ++q)
#pragma unroll
        for (int e = 0; e < 4; ++e) to[(k() + e) * kLine + row(q)] = quad_[q].entry[e];
    }

   private:
    struct alignas(16) Quad {
      float entry[4] = {};
    };
    static constexpr int kOfRow = kDepth / 4, kCount = kSize * kOfRow / kThreads;
    static_assert(kThreads % kOfRow == 0 && kCount * kThreads == kSize * kOfRow,
                  "a thread's quads are below each other");
    static FT_DEVICE int row(int q) { return (thread_index() + q * kThreads) / kOfRow; }
    static FT_DEVICE int k() { return thread_index() % kOfRow * 4; }
    Quad quad_[kCount];
  };
};

}  // namespace fasttriplet::cuda
