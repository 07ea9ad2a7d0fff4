// A tile of products in float32, for any architecture: the oracle, the fallback, and the finer round.
//
// 64 x 64 in 4 warps, a warp 32 x 32, a lane 4 x 8 sums in registers. Per 16 entries of depth the block loads 2 x 64 x
// 16 float32, 8 KB; a lane reads 12 words for 32 multiply-adds.
#pragma once

#include "cuda/prepare.cuh"
#include "cuda/tile.cuh"

namespace fasttriplet::cuda {

struct FloatTile {
  using Entry = Float32;
  using Source = PackedRows<Entry>;
  static constexpr int kSize = 64, kDepth = 16, kDepthStep = 4;
  using Sums = Part<32, 32>;
  using Layout = Warps<kSize, Sums>;
  static constexpr int kThreads = Layout::kThreads, kMinBlocks = 4;
  // Entries by depth, then by row; two words more a line keep the 16-byte loads' stores off one bank.
  static constexpr int kLine = kSize + 2;
  static constexpr int kBufferBytes = 2 * kDepth * kLine * static_cast<int>(sizeof(float));

  static double product_error(int64_t d) { return accumulation_error(d); }

  // Rows of tile number row_tile times rows of column_tile; beyond the last row are zeros. The depth is a multiple of
  // kDepthStep.
  static FT_DEVICE void multiply(const Source& source, int row_tile, int column_tile, char* buffer, Sums& sums) {
    float* const rows = reinterpret_cast<float*>(buffer);
    float* const columns = rows + kDepth * kLine;
#pragma unroll
    for (int r = 0; r < Sums::kRowsOfLane; ++r)
#pragma unroll
      for (int c = 0; c < Sums::kColumnsOfLane; ++c) sums.dot[r][c] = 0;
    for (int begin = 0; begin < source.depth; begin += kDepth) {
      load(source, row_tile, begin, rows);
      load(source, column_tile, begin, columns);
      block_barrier();
      for (int k = 0; k < kDepth; ++k) {
        float x[Sums::kRowsOfLane], y[Sums::kColumnsOfLane];
#pragma unroll
        for (int r = 0; r < Sums::kRowsOfLane; ++r)
          x[r] = rows[k * kLine + Layout::first_row() + Sums::row(r, lane_index())];
#pragma unroll
        for (int c = 0; c < Sums::kColumnsOfLane; ++c)
          y[c] = columns[k * kLine + Layout::first_column() + Sums::column(c, lane_index())];
#pragma unroll
        for (int r = 0; r < Sums::kRowsOfLane; ++r)
#pragma unroll
          for (int c = 0; c < Sums::kColumnsOfLane; ++c) sums.dot[r][c] = fused(x[r], y[c], sums.dot[r][c]);
      }
      block_barrier();
    }
  }

 private:
  static FT_DEVICE void load(const Source& source, int tile, int begin, float* to) {
    constexpr int kQuads = kDepth / 4;
    struct alignas(16) Quad {
      float entry[4];
    };
    for (int q = thread_index(); q < kSize * kQuads; q += kThreads) {
      const int row = q / kQuads, k = q % kQuads * 4;
      Quad quad = {};
      const int64_t r = static_cast<int64_t>(tile) * kSize + row;
      if (r < source.n && begin + k < source.depth)
        quad = *reinterpret_cast<const Quad*>(source.entries + r * source.depth + begin + k);
#pragma unroll
      for (int e = 0; e < 4; ++e) to[(k + e) * kLine + row] = quad.entry[e];
    }
  }
};

}  // namespace fasttriplet::cuda
