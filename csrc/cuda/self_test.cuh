// Products of one tile, to be compared: the tensor cores' first-use test and the tests' look at a tile.
#pragma once

#include "cuda/device.cuh"

namespace fasttriplet::cuda {

// products [kSize, kSize] of the first and the second kSize rows, those beyond the last as zeros.
template <typename Tile>
struct MultiplyTile {
  static constexpr int kThreads = Tile::kThreads, kMinBlocks = Tile::kMinBlocks, kSharedBytes = Tile::kBufferBytes;
  typename Tile::Source source;
  float* products;  // [kSize, kSize]

  FT_DEVICE void operator()() const {
    using Sums = typename Tile::Sums;
    Sums sums;
    Tile::multiply(source, 0, 1, shared_memory(), sums);
    for (int r = 0; r < Sums::kRowsOfLane; ++r)
      for (int c = 0; c < Sums::kColumnsOfLane; ++c)
        products[(Tile::Layout::first_row() + Sums::row(r, lane_index())) * Tile::kSize + Tile::Layout::first_column() +
                 Sums::column(c, lane_index())] = sums.dot[r][c];
  }
};

}  // namespace fasttriplet::cuda
