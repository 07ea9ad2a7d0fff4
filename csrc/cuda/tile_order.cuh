// The order in which the screen's blocks take the tiles of the upper triangle.
#pragma once

#include "core/triangle.h"
#include "cuda/device.cuh"

namespace fasttriplet::cuda {

struct TilePlace {
  int row, column;  // row -1: none is left
};

// Square by square of kSquare tiles a side: at D = 128 a square of large tiles reads 1 MB of rows, which stay in the
// second-level cache, instead of 16 times as much from memory. Squares on the diagonal come first, then by growing
// distance from it (core/triangle.h); what is no whole square lies at the end. No number is empty.
class TileOrder {
 public:
  static constexpr int kSquare = 16;

  FT_SHARED TileOrder(int64_t n, int size)
      : squares_((n + size - 1) / size / kSquare), rest_((n + size - 1) / size % kSquare) {}

  FT_SHARED int64_t count() const {
    const int64_t tiles = squares_ * kSquare + rest_;
    return tiles * (tiles + 1) / 2;
  }

  FT_SHARED TilePlace place(int64_t number) const {
    constexpr int64_t kDiagonal = kSquare * (kSquare + 1) / 2, kWhole = kSquare * kSquare;
    if (number < squares_ * kDiagonal) return on_diagonal(number / kDiagonal, number % kDiagonal, kSquare);
    number -= squares_ * kDiagonal;
    const int64_t corner = rest_ * (rest_ + 1) / 2;
    if (number < corner) return on_diagonal(squares_, number, rest_);
    number -= corner;
    const int64_t whole = squares_ * (squares_ - 1) / 2 * kWhole;
    if (number < whole) {
      const BlockPair square = block_pair(squares_ + number / kWhole, squares_);
      return within(square.i, square.j, number % kWhole, kSquare);
    }
    number -= whole;
    return within(number / (kSquare * rest_), squares_, number % (kSquare * rest_), rest_);
  }

 private:
  static FT_SHARED TilePlace on_diagonal(int64_t square, int64_t number, int64_t side) {
    const BlockPair tile = block_pair(number, side);
    return {static_cast<int>(square * kSquare + tile.i), static_cast<int>(square * kSquare + tile.j)};
  }
  static FT_SHARED TilePlace within(int64_t i, int64_t j, int64_t number, int64_t columns) {
    return {static_cast<int>(i * kSquare + number / columns), static_cast<int>(j * kSquare + number % columns)};
  }

  int64_t squares_, rest_;  // whole squares a side, and the tiles behind them
};

}  // namespace fasttriplet::cuda
