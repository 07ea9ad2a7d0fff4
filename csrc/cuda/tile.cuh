// What the two tiles of products share: the shape of a warp's part and where its products lie.
#pragma once

#include "cuda/device.cuh"

namespace fasttriplet::cuda {

// The rows that a tile multiplies, as they were packed.
template <typename Entry>
struct PackedRows {
  const Entry* entries;  // [n, depth]
  int64_t n;
  int depth;
};

// A warp's part of a tile, spread over its lanes as the accumulators of mma.m16n8 and of wgmma are: of every 8 x 8
// square a lane has two neighbours of one row. The float32 tile takes the same places, so that all else is written
// once.
template <int kPartRows, int kPartColumns>
struct Part {
  static constexpr int kRows = kPartRows, kColumns = kPartColumns;
  static constexpr int kRowsOfLane = kRows / 8, kColumnsOfLane = kColumns / 4;
  float dot[kRowsOfLane][kColumnsOfLane];

  static FT_DEVICE int row(int r, int lane) { return 8 * r + lane / 4; }
  static FT_DEVICE int column(int c, int lane) { return c / 2 * 8 + lane % 4 * 2 + c % 2; }

  // Where a product lies in shared memory: 32 words of a row turned by its number, so that neither they nor 32 words of
  // a column share a bank.
  static FT_DEVICE int place(int row, int column) { return row * kColumns + (column ^ (row % kWarp)); }

  FT_DEVICE void store(float* products, int lane) const {  // [kRows * kColumns]
#pragma unroll
    for (int r = 0; r < kRowsOfLane; ++r)
#pragma unroll
      for (int c = 0; c < kColumnsOfLane; ++c) products[place(row(r, lane), column(c, lane))] = dot[r][c];
  }
};

// Warps side by side in a square tile of kSize rows and columns.
template <int kTileSize, typename Part>
struct Warps {
  static constexpr int kColumns = kTileSize / Part::kColumns, kRows = kTileSize / Part::kRows;
  static constexpr int kThreads = kColumns * kRows * kWarp;
  static FT_DEVICE int first_row() { return warp_index() / kColumns * Part::kRows; }
  static FT_DEVICE int first_column() { return warp_index() % kColumns * Part::kColumns; }
};

}  // namespace fasttriplet::cuda
