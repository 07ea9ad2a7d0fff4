// What the two tiles of products share: the shape of a warp's part and where its products lie.
#pragma once

#include "cuda/device.cuh"

namespace fasttriplet::cuda {

// A warp's part of a tile, kRows x 32, spread over its lanes as the accumulators of mma.m16n8 are: of every 8 x 8
// square a lane has two neighbours of one row. The float32 tile takes the same places, so that all else is written
// once.
template <int kPartRows>
struct Part {
  static constexpr int kRows = kPartRows, kColumns = 32;
  static constexpr int kRowsOfLane = kRows / 8, kColumnsOfLane = 8;
  float dot[kRowsOfLane][kColumnsOfLane];

  static FT_DEVICE int row(int r, int lane) { return 8 * r + lane / 4; }
  static FT_DEVICE int column(int c, int lane) { return c / 2 * 8 + lane % 4 * 2 + c % 2; }

  // Where a product lies in shared memory: rows of 32 words, turned by their number, so that neither the 32 words of a
  // row nor 32 words of a column share a bank.
  static FT_DEVICE int place(int row, int column) { return row * kColumns + (column ^ (row % kColumns)); }

  FT_DEVICE void store(float* products, int lane) const {  // [kRows * kColumns]
#pragma unroll
    for (int r = 0; r < kRowsOfLane; ++r)
#pragma unroll
      for (int c = 0; c < kColumnsOfLane; ++c) products[place(row(r, lane), column(c, lane))] = dot[r][c];
  }
};

// Warps side by side in a square tile of kSize rows and columns.
template <int kTileSize, int kPartRows>
struct Warps {
  static constexpr int kColumns = kTileSize / Part<kPartRows>::kColumns, kRows = kTileSize / kPartRows;
  static constexpr int kThreads = kColumns * kRows * kWarp;
  static FT_DEVICE int first_row() { return warp_index() / kColumns * kPartRows; }
  static FT_DEVICE int first_column() { return warp_index() % kColumns * Part<kPartRows>::kColumns; }
};

}  // namespace fasttriplet::cuda
