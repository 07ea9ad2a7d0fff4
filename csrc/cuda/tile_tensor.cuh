// A tile of products on tensor cores, bfloat16 entries and float32 sums, for sm_80 and later.
//
// Entries reach shared memory by cp.async, kStages deep: while 32 entries of depth are multiplied the next ones are
// under way. A row's 64 bytes there are four chunks of 16; chunk c lies at c ^ (row / 2 % 4), so that the eight rows of
// an ldmatrix lie in different banks. Per stage and operand kSize x 64 bytes: 128 rows, 4 stages, 64 KB, two blocks on
// a multiprocessor; a lane has 64 sums, 4 words of rows and 8 of columns, so that 128 registers suffice.
#pragma once

#include "cuda/prepare.cuh"
#include "cuda/tile.cuh"

namespace fasttriplet::cuda {

template <int kTileSize, int kPartRows, int kTileMinBlocks>
struct TensorTile : PlainTile {
  using Entry = BFloat16;
  using Source = PackedRows<Entry>;
  static constexpr int kSize = kTileSize, kDepth = 32, kDepthStep = 8, kStages = 4;
  using Sums = Part<kPartRows, 32>;
  using Layout = Warps<kSize, kSize, Sums>;
  static constexpr int kThreads = Layout::kThreads, kMinBlocks = kTileMinBlocks;
  static constexpr int kRowBytes = kDepth * sizeof(Entry), kChunks = kRowBytes / 16;
  static constexpr int kOperandBytes = kSize * kRowBytes;
  static constexpr int kBufferBytes = kStages * 2 * kOperandBytes;

  static double product_error(int64_t d) { return tensor_core_error(d); }

  static FT_DEVICE void start(const Source& source, int row_tile, int column_tile, char* buffer, Pipeline&) {
    const Chunks row_chunks(source, row_tile), column_chunks(source, column_tile);
#pragma unroll 1
    for (int step = 0; step < kStages - 1; ++step) load(source, row_chunks, column_chunks, step, buffer);
  }
  static FT_DEVICE void abandon(const Source&, char*, Pipeline&) { copy_async_wait<0>(); }

  // Rows of tile number row_tile times rows of column_tile; beyond the last row are zeros. The depth is a multiple of
  // kDepthStep.
  static FT_DEVICE void multiply(const Source& source, int row_tile, int column_tile, char* buffer, Pipeline&,
                                 Sums& sums) {
#pragma unroll
    for (int r = 0; r < Sums::kRowsOfLane; ++r)
#pragma unroll
      for (int c = 0; c < Sums::kColumnsOfLane; ++c) sums.dot[r][c] = 0;
    // What stays the same from step to step is worked out here: left to the compiler it takes more registers.
    const int lane = lane_index();
    const int steps = steps_of(source);
    const int row_offset = place(Layout::first_row() + lane % 16, lane / 16);
    const int column_offset = place(Layout::first_column() + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const Chunks row_chunks(source, row_tile), column_chunks(source, column_tile);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      copy_async_wait<kStages - 2>();
      block_barrier();  // all have this stage, and have done with the one that is loaded next
      load(source, row_chunks, column_chunks, step + kStages - 1, buffer);
      const char* const stage = buffer + step % kStages * (2 * kOperandBytes);
#pragma unroll
      for (int half = 0; half < kDepth / 16; ++half)  // two chunks further: bit 5 of a place
        multiply_stage(stage + (row_offset ^ half * 32), stage + kOperandBytes + (column_offset ^ half * 32), sums);
    }
    block_barrier();  // all have done with the buffer; what is still under way are empty groups
  }

 private:
  static FT_DEVICE int steps_of(const Source& source) { return (source.depth + kDepth - 1) / kDepth; }
  static FT_DEVICE int place(int row, int chunk) { return row * kRowBytes + ((chunk ^ (row / 2 % kChunks)) * 16); }

  // This thread's chunks of an operand: one of a row, and of the rows kRowStep below.
  class Chunks {
   public:
    FT_DEVICE Chunks(const Source& source, int tile) {
      const int64_t first = static_cast<int64_t>(tile) * kSize, rows = source.n - first;
      from_ = source.entries + (first + row()) * source.depth + chunk() * 8;
      rows_ = (rows < kSize ? static_cast<int>(rows) : kSize) - row();
    }

    FT_DEVICE void copy(int depth, int begin, char* to) const {
#pragma unroll
      for (int q = 0; q < kSize / kRowStep; ++q) {
        const bool inside = q * kRowStep < rows_ && begin + chunk() * 8 < depth;
        const Entry* const from = from_ + (begin + static_cast<int64_t>(q * kRowStep) * depth);
        copy_async(to + place(row(), chunk()) + q * kRowStep * kRowBytes, from, inside ? 16 : 0);  // 0 reads nothing
      }
    }

   private:
    static constexpr int kRowStep = kThreads / kChunks;
    static_assert(kRowStep % (2 * kChunks) == 0, "rows a step apart have their chunks at the same places");
    static FT_DEVICE int row() { return thread_index() / kChunks; }
    static FT_DEVICE int chunk() { return thread_index() % kChunks; }
    const Entry* from_;
    int rows_;  // of the tile from this thread's row on
  };

  static FT_DEVICE void load(const Source& source, const Chunks& rows, const Chunks& columns, int step, char* buffer) {
    char* const stage = buffer + step % kStages * (2 * kOperandBytes);
    if (step < steps_of(source)) {
      rows.copy(source.depth, step * kDepth, stage);
      columns.copy(source.depth, step * kDepth, stage + kOperandBytes);
    }
    copy_async_commit();  // an empty group too: the count of groups is what is waited for
  }

  // 16 entries of depth; the places are those of this lane's first row and column.
  static FT_DEVICE void multiply_stage(const char* rows, const char* columns, Sums& sums) {
    constexpr int kTall = kPartRows / 16, kWide = Sums::kColumns / 16;
    uint32_t b[kWide][4];
#pragma unroll
    for (int w = 0; w < kWide; ++w)  // matrices: both halves of the entries of 8 columns, then of the next 8
      load_matrices(b[w], columns + 16 * w * kRowBytes);
#pragma unroll
    for (int m = 0; m < kTall; ++m) {
      uint32_t a[4];  // matrices: upper and lower 8 rows of the first 8 entries, then of the next 8
      load_matrices(a, rows + 16 * m * kRowBytes);
#pragma unroll
      for (int c = 0; c < Sums::kColumns / 8; ++c) {
        float square[4] = {sums.dot[2 * m][2 * c], sums.dot[2 * m][2 * c + 1], sums.dot[2 * m + 1][2 * c],
                           sums.dot[2 * m + 1][2 * c + 1]};
        multiply_add_bf16(square, a, b[c / 2][c % 2 * 2], b[c / 2][c % 2 * 2 + 1]);
        sums.dot[2 * m][2 * c] = square[0];
        sums.dot[2 * m][2 * c + 1] = square[1];
        sums.dot[2 * m + 1][2 * c] = square[2];
        sums.dot[2 * m + 1][2 * c + 1] = square[3];
      }
    }
  }
};

// Large batches: two blocks of 256 threads leave 128 registers a thread. Small ones: four times as many tiles.
using LargeTensorTile = TensorTile<128, 64, 2>;
using SmallTensorTile = TensorTile<64, 32, 4>;

}  // namespace fasttriplet::cuda
