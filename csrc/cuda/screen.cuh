// The screen: one walk over the upper triangle of tiles that leaves each anchor with the few candidates its winner must
// be among. Every tile serves its rows and, mirrored, its columns; no product is stored.
//
// A tile tests its products against what its anchors know already, two sums and two compares each (core/bound.h). Only
// where a warp finds a hit does it look closer, an anchor a lane: it lowers the anchor's best and keeps the candidates
// that are not above it. A candidate that the best has left behind gives its slot away; an anchor whose slots are all
// taken overflows, and is left to the next round or to the exact scan. Which candidates lie in the slots depends on
// timing, which of them wins does not.
#pragma once

#include "core/triangle.h"
#include "cuda/prepare.cuh"
#include "cuda/tile.cuh"

namespace fasttriplet::cuda {

// Tiles are visited square by square of this many tiles a side: at D = 128 a square of large tiles reads 1 MB of rows,
// which stay in the second-level cache, instead of 16 times as much from memory.
inline constexpr int kSquare = 16;

FT_SHARED inline int64_t tile_slots(int64_t n, int64_t size) {
  const int64_t squares = ((n + size - 1) / size + kSquare - 1) / kSquare;
  return squares * (squares + 1) / 2 * kSquare * kSquare;
}

template <typename Tile>
struct ScreenPairs {
  static constexpr int kThreads = Tile::kThreads, kMinBlocks = Tile::kMinBlocks, kSize = Tile::kSize;
  using Sums = typename Tile::Sums;
  // A row's or column's numbers in a search: key as a candidate, threshold as an anchor.
  struct Line {
    float key[kSize], threshold[kSize];
  };
  struct Side {
    Line search[kSearches];
  };
  static constexpr int kProductBytes = kSize * kSize * static_cast<int>(sizeof(float));
  static constexpr int kBufferBytes = Tile::kBufferBytes > kProductBytes ? Tile::kBufferBytes : kProductBytes;
  static constexpr int kSharedBytes = kBufferBytes + 2 * static_cast<int>(sizeof(Side));

  typename Tile::Source source;
  int64_t n;
  const int32_t* classes;  // [N] ascending
  RoundCondition condition;
  uint32_t* overflows;  // [kSearches] of this round
  PerSearch<Anchors> anchors;

  FT_DEVICE void operator()() const {
    if (!condition.holds()) return;
    const int64_t slots = tile_slots(n, kSize);
    for (int64_t slot = block_index(); slot < slots; slot += block_count()) {
      const int64_t tiles = (n + kSize - 1) / kSize;
      const BlockPair square = block_pair(slot / (kSquare * kSquare), (tiles + kSquare - 1) / kSquare);
      const int within = static_cast<int>(slot % (kSquare * kSquare));
      const int row_tile = static_cast<int>(square.i * kSquare) + within / kSquare;
      const int column_tile = static_cast<int>(square.j * kSquare) + within % kSquare;
      if (row_tile <= column_tile && column_tile < tiles) screen_tile(row_tile, column_tile);
    }
  }

 private:
  // A warp's part of the tile: its first row and column in the batch and in the tile.
  struct Place {
    int64_t i, j;
    int row, column, lane;
  };

  enum class Pairs { kMixed, kNegative, kPositive };

  // Rows are in class order: away from the diagonal a tile's pairs are mostly all of one kind.
  FT_DEVICE Pairs pairs_of(int row_tile, int column_tile) const {
    if (row_tile == column_tile) return Pairs::kMixed;
    const int64_t row = static_cast<int64_t>(row_tile) * kSize, column = static_cast<int64_t>(column_tile) * kSize;
    const int64_t end = column + kSize < n ? column + kSize : n;
    if (classes[row + kSize - 1] < classes[column]) return Pairs::kNegative;
    return classes[row] == classes[end - 1] ? Pairs::kPositive : Pairs::kMixed;
  }

  FT_DEVICE void screen_tile(int row_tile, int column_tile) const {
    char* const buffer = shared_memory();
    Side* const rows = reinterpret_cast<Side*>(buffer + kBufferBytes);
    Side* const columns = rows + 1;
    if (!load_tile_lines(row_tile, column_tile, rows, columns)) return;

    Sums sums;
    Tile::multiply(source, row_tile, column_tile, buffer, sums);
    const Pairs pairs = pairs_of(row_tile, column_tile);  // again: kept, it would cost the products a register
    const int row = Tile::Layout::first_row(), column = Tile::Layout::first_column();
    const Place place = {static_cast<int64_t>(row_tile) * kSize + row,
                         static_cast<int64_t>(column_tile) * kSize + column, row, column,
                         worked_out_here(lane_index())};
    float* const products = reinterpret_cast<float*>(buffer) + warp_index() * (Sums::kRows * Sums::kColumns);
    // Mixed tiles are few and nearly all have hits: both searches read the products from shared memory.
    const bool negatives =
        pairs == Pairs::kMixed || (pairs == Pairs::kNegative && hits_any<kNearest>(sums, place, *rows, *columns));
    const bool positives =
        pairs == Pairs::kMixed || (pairs == Pairs::kPositive && hits_any<kFarthest>(sums, place, *rows, *columns));
    if (negatives || positives) {
      sums.store(products, place.lane);
      warp_barrier();
      const bool pure = pairs != Pairs::kMixed;
      if (negatives) look_closer<kNearest>(place, pure, *rows, *columns, products);
      if (positives) look_closer<kFarthest>(place, pure, *rows, *columns, products);
    }
    block_barrier();  // the next tile overwrites shared memory
  }

  // False where no row of the tile searches what it has.
  FT_DEVICE bool load_tile_lines(int row_tile, int column_tile, Side* rows, Side* columns) const {
    const Pairs pairs = pairs_of(row_tile, column_tile);
    bool wanted = false;
    if (pairs != Pairs::kPositive) wanted |= load_lines(kNearest, row_tile, column_tile, rows, columns);
    if (pairs != Pairs::kNegative) wanted |= load_lines(kFarthest, row_tile, column_tile, rows, columns);
    return block_any(wanted);
  }

  // True where some row searches.
  FT_DEVICE bool load_lines(Search search, int row_tile, int column_tile, Side* rows, Side* columns) const {
    const Anchors& all = anchors[search];
    bool any = false;
    for (int t = thread_index(); t < 2 * kSize; t += kThreads) {
      const int k = t % kSize;
      Line& line = (t < kSize ? rows : columns)->search[search];
      const int64_t r = static_cast<int64_t>(t < kSize ? row_tile : column_tile) * kSize + k;
      float key = infinity(), threshold = infinity();
      if (r < n) {
        key = all.terms[r].candidate;
        if (all.active[r]) threshold = add_down(all.terms[r].anchor, -ordered_value(load_fresh(all.best + r)));
      }
      line.key[k] = key;
      line.threshold[k] = threshold;
      any |= threshold < infinity();
    }
    return any;
  }

  // Whether a product of the warp may improve its row's or its column's anchor.
  template <Search kSearch>
  static FT_DEVICE bool hits_any(const Sums& sums, const Place& at, const Side& rows, const Side& columns) {
    const Line &row_line = rows.search[kSearch], &column_line = columns.search[kSearch];
    float row_key[Sums::kRowsOfLane], row_threshold[Sums::kRowsOfLane];
#pragma unroll
    for (int r = 0; r < Sums::kRowsOfLane; ++r) {
      row_key[r] = row_line.key[at.row + Sums::row(r, at.lane)];
      row_threshold[r] = row_line.threshold[at.row + Sums::row(r, at.lane)];
    }
    bool any = false;
#pragma unroll
    for (int c = 0; c < Sums::kColumnsOfLane; ++c) {
      const float column_key = column_line.key[at.column + Sums::column(c, at.lane)];
      const float column_threshold = column_line.threshold[at.column + Sums::column(c, at.lane)];
#pragma unroll
      for (int r = 0; r < Sums::kRowsOfLane; ++r)
        any |= hits<kSearch>(sums.dot[r][c], column_key, row_threshold[r]) |
               hits<kSearch>(sums.dot[r][c], row_key[r], column_threshold);
    }
    return warp_any(any);
  }

  template <Search kSearch>
  static FT_DEVICE float signed_product(float dot) {
    return kSearch == kNearest ? dot : -dot;
  }
  template <Search kSearch>
  static FT_DEVICE bool hits(float dot, float candidate_key, float anchor_threshold) {
    return signed_product<kSearch>(dot) >= add_down(candidate_key, anchor_threshold);
  }

  // Pure: the tile is strictly above the diagonal and all its pairs are of the search's kind.
  template <Search kSearch>
  FT_DEVICE void look_closer(const Place& at, bool pure, const Side& row_side, const Side& column_side,
                             const float* products) const {
    const Line &rows = row_side.search[kSearch], &columns = column_side.search[kSearch];
    const int lane = at.lane;
    // A row a lane, then a column a lane; of a part of 16 rows half of the lanes have none.
    for (int first = 0; first < Sums::kRows; first += kWarp) {
      const int r = first + lane < Sums::kRows ? first + lane : 0;
      const float threshold = first + lane < Sums::kRows ? rows.threshold[at.row + r] : infinity();
      const int64_t anchor = at.i + r;
      meet<kSearch>(
          anchor, at.j, pure, threshold, columns.key + at.column, Sums::kColumns,
          [&](int c) { return products[Sums::place(r, c)]; }, [&](int c) { return anchor < at.j + c; });
    }
    for (int first = 0; first < Sums::kColumns; first += kWarp) {
      const int c = first + lane;
      const int64_t anchor = at.j + c;
      meet<kSearch>(
          anchor, at.i, pure, columns.threshold[at.column + c], rows.key + at.row, Sums::kRows,
          [&](int r) { return products[Sums::place(r, c)]; }, [&](int r) { return at.i + r < anchor; });
    }
  }

  // This lane's anchor and the `count` candidates from `first` on; `dot` is the product with one of them, `above` says
  // whether the pair lies above the diagonal. No padding row hits: its threshold and its key are infinite.
  template <Search kSearch, typename Dot, typename Above>
  FT_DEVICE void meet(int64_t anchor, int64_t first, bool pure, float threshold, const float* keys, int count,
                      Dot&& dot, Above&& above) const {
    const Anchors& all = anchors[kSearch];
    const auto hit = [&](int k) {
      return hits<kSearch>(dot(k), keys[k], threshold) &&
             (pure || (above(k) && (classes[anchor] == classes[first + k]) == (kSearch == kFarthest)));
    };
    float smallest = infinity();
    for (int k = 0; k < count; ++k) {
      if (!hit(k)) continue;
      const float upper = add_up(add_up(all.terms[anchor].anchor_upper, all.terms[first + k].candidate_upper),
                                 -signed_product<kSearch>(dot(k)));
      smallest = upper < smallest ? upper : smallest;
    }
    if (!(smallest < infinity())) return;
    uint32_t best = atomic_min(all.best + anchor, ordered_bits(smallest));
    if (ordered_bits(smallest) < best) best = ordered_bits(smallest);
    for (int k = 0; k < count; ++k) {
      if (!hit(k)) continue;
      const float lower = add_down(add_down(all.terms[anchor].anchor, all.terms[first + k].candidate),
                                   -signed_product<kSearch>(dot(k)));
      if (ordered_bits(lower) <= best) keep(kSearch, anchor, first + k, ordered_bits(lower), best);
    }
  }

  // Takes an empty slot, or one whose candidate the best has left behind.
  FT_DEVICE void keep(Search search, int64_t anchor, int64_t candidate, uint32_t lower, uint32_t best) const {
    const Anchors& all = anchors[search];
    const uint64_t entry = static_cast<uint64_t>(lower) << 32 | static_cast<uint64_t>(candidate);
    uint64_t* const slots = all.slots + anchor * all.length;
    for (int k = 0; k < all.length; ++k) {
      uint64_t found = load_fresh(slots + k);
      while (found >> 32 > best) {
        const uint64_t before = compare_and_swap(slots + k, found, entry);
        if (before == found) return;
        found = before;
      }
    }
    all.overflown[anchor] = 1;
    all.active[anchor] = 0;  // later tiles need not look
    overflows[search] = 1;
  }
};

}  // namespace fasttriplet::cuda
