// Products of one tile, to be compared: the tensor cores' first-use test and the tests' look at a tile.
#pragma once

#include "cuda/device.cuh"

namespace fasttriplet::cuda {

// products [kSize, kSize] of the first and the second kSize rows, those beyond the last as zeros. As many blocks as the
// tile has.
template <typename Tile>
struct MultiplyTile {
  static constexpr int kThreads = Tile::kThreads, kMinBlocks = Tile::kMinBlocks, kSharedBytes = Tile::kBufferBytes;
  static constexpr int kClusterBlocks = Tile::kBlocks, kRows = Tile::kSize / Tile::kBlocks;
  typename Tile::Source source;
  float* products;  // [kSize, kSize]

  FT_DEVICE void operator()() const {
    using Sums = typename Tile::Sums;
    if (Tile::kByWarpgroups && !has_warpgroups()) return;
    Sums sums;
    char* const buffer = shared_memory();
    typename Tile::Pipeline pipeline = Tile::open(buffer);
    Tile::start(source, 0, 1, buffer, pipeline);
    Tile::multiply(source, 0, 1, buffer, pipeline, sums);
    const int row = Tile::rank() * kRows + Tile::Layout::first_row(), column = Tile::Layout::first_column();
    for (int r = 0; r < Sums::kRowsOfLane; ++r)
      for (int c = 0; c < Sums::kColumnsOfLane; ++c)
        products[(row + Sums::row(r, lane_index())) * Tile::kSize + column + Sums::column(c, lane_index())] =
            sums.dot[r][c];
    Tile::close(buffer);
  }
};

}  // namespace fasttriplet::cuda
