// What the tiles of products share: the shape of a warp's part and where its products lie.
//
// A tile has kSize rows and columns, and kBlocks blocks that share out its rows; a grid opens it once and closes it.
// Each time start sends for the first entries and comes back, multiply goes on from there, or abandon in its place
// where the products are not wanted after all, by one block alone; every thread says leave when it has done with the
// buffer, and finish when all have. A Pipeline is what a thread keeps from one tile to the next.
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

  // Where a product lies in shared memory: the words of a row exchanged by its number, so that no two of 32 words of a
  // row, of a column, or of those that a warp stores at once share a bank. The last have l / 4 in the low bits of the
  // row and l % 4 in bits 1 and 2 of the column, for the lanes l: the row's low bits go to the other three.
  static FT_DEVICE int place(int row, int column) {
    return row * kColumns + (column ^ ((row & 1) | (row >> 3 & 3) << 1 | (row >> 1 & 3) << 3));
  }

  FT_DEVICE void store(float* products, int lane) const {  // [kRows * kColumns]
#pragma unroll
    for (int r = 0; r < kRowsOfLane; ++r)
#pragma unroll
      for (int c = 0; c < kColumnsOfLane; ++c) products[place(row(r, lane), column(c, lane))] = dot[r][c];
  }
};

// What the copy engine brings at once: rows, and entries of each.
inline constexpr int kBoxRows = 128, kBoxEntries = 64;

// A tile of one block, with nothing to keep.
struct PlainTile {
  static constexpr int kBlocks = 1;
  static constexpr bool kByWarpgroups = false;
  struct Pipeline {};
  static FT_DEVICE int rank() { return 0; }
  static FT_DEVICE Pipeline open(char*) { return {}; }
  static FT_DEVICE void leave() {}
  static FT_DEVICE void finish(int, char*, Pipeline&) {}
  static FT_DEVICE void close(char*) {}
};

// Warps side by side in a block's part of a tile.
template <int kTileRows, int kTileColumns, typename Part>
struct Warps {
  static constexpr int kColumns = kTileColumns / Part::kColumns, kRows = kTileRows / Part::kRows;
  static constexpr int kThreads = kColumns * kRows * kWarp;
  static FT_DEVICE int first_row() { return warp_index() / kColumns * Part::kRows; }
  static FT_DEVICE int first_column() { return warp_index() % kColumns * Part::kColumns; }
};

}  // namespace fasttriplet::cuda
