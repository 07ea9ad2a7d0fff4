// The screen: one walk over the upper triangle of tiles that leaves each anchor with the few candidates its winner must
// be among. Every tile serves its rows and, mirrored, its columns; no product is stored.
//
// A tile tests its products against what its anchors know already, two sums and two compares each (core/bound.h). Only
// where a warp finds a hit does it look closer, an anchor a lane: it lowers the anchor's best and keeps the candidates
// that are not above it. A candidate that the best has left behind gives its slot away; an anchor whose slots are all
// taken overflows, and is left to the next round or to the exact scan. Which candidates lie in the slots depends on
// timing, which of them wins does not.
//
// A block's first tile has the block's number, the others are taken from a counter as blocks come free. The number of
// the next one is asked for while this one's rows are on their way, and so are the first of them before it is known
// what their anchors search.
#pragma once

#include "cuda/partners.cuh"
#include "cuda/prepare.cuh"
#include "cuda/tile.cuh"
#include "cuda/tile_order.cuh"

namespace fasttriplet::cuda {

template <typename Tile, typename Partners = EveryPair>
struct ScreenPairs {
  static constexpr int kThreads = Tile::kThreads, kMinBlocks = Tile::kMinBlocks, kClusterBlocks = Tile::kBlocks;
  static constexpr int kSize = Tile::kSize, kRows = kSize / Tile::kBlocks;  // of the tile, and of a block
  using Sums = typename Tile::Sums;
  // Rows' or columns' numbers in a search: both ends of their keys' shares as candidates and as anchors (Terms), and
  // their thresholds as anchors.
  template <int kLength>
  struct Line {
    float key[kLength], key_upper[kLength], anchor[kLength], anchor_upper[kLength], threshold[kLength];
  };
  struct Rows {
    Line<kRows> search[kSearches];
  };
  struct Columns {
    Line<kSize> search[kSearches];
  };
  static constexpr int kProductBytes = kRows * kSize * static_cast<int>(sizeof(float));
  static constexpr int kBufferBytes = Tile::kBufferBytes > kProductBytes ? Tile::kBufferBytes : kProductBytes;
  // Behind the sides the next tile; two of them in turn, since the next but one is written while others still read.
  static constexpr int kSharedBytes =
      kBufferBytes + static_cast<int>(sizeof(Rows) + sizeof(Columns) + 2 * sizeof(TilePlace));

  typename Tile::Source source;
  int64_t n;
  const int32_t* classes;  // [N] ascending
  RoundCondition condition;
  const uint8_t* searching;  // [tiles] whether a row of it searches, or null: not known
  uint64_t* taken;           // tiles beyond each block's first
  uint32_t* overflows;       // [kSearches] anchors of this round
  PerSearch<Anchors> anchors;
  Partners partners;

  FT_DEVICE void operator()() const {
    if (Tile::kByWarpgroups && !has_warpgroups()) return;  // no code for architectures that cannot run it
    if (!condition.holds()) return;
    char* const buffer = shared_memory();
    TilePlace* const next = reinterpret_cast<TilePlace*>(buffer + kBufferBytes + sizeof(Rows) + sizeof(Columns));
    typename Tile::Pipeline pipeline = Tile::open(buffer);
    TilePlace tile = TileOrder(n, kSize).place(block_index() / kClusterBlocks);
    for (int turn = 0; tile.row >= 0; ++turn) {
      screen_tile(tile.row, tile.column, turn, next + turn % 2, pipeline);
      tile = next[turn % 2];
    }
    Tile::close(buffer);
  }

 private:
  // A warp's part of the tile: its first row and column in the batch and in the tile.
  struct Place {
    int64_t i, j;
    int row, column, lane;
  };

  // The next tile's number beyond those that blocks begin with: of a counter, or, where the blocks of a cluster have to
  // agree on it, so many clusters further.
  FT_DEVICE uint64_t take_number(int turn) const {
    if constexpr (kClusterBlocks > 1)
      return static_cast<uint64_t>(block_index() / kClusterBlocks + turn * (block_count() / kClusterBlocks));
    else
      return atomic_add(taken, uint64_t{1});
  }

  // The tile of this number, or, where nothing there searches, of another.
  FT_DEVICE TilePlace tile_taken(uint64_t number) const {
    const TileOrder order(n, kSize);
    for (;; number = atomic_add(taken, uint64_t{1})) {
      const int64_t place_number = block_count() / kClusterBlocks + static_cast<int64_t>(number);
      if (place_number >= order.count()) return {-1, -1};
      const TilePlace place = order.place(place_number);
      if (searching == nullptr || searching[place.row] != 0 || searching[place.column] != 0) return place;
    }
  }

  enum class Pairs { kMixed, kNegative, kPositive };

  // Rows are in class order: away from the diagonal a tile's pairs are mostly all of one kind.
  FT_DEVICE Pairs pairs_of(int row_tile, int column_tile) const {
    if (row_tile == column_tile) return Pairs::kMixed;
    const int64_t row = first_row(row_tile), column = static_cast<int64_t>(column_tile) * kSize;
    const int64_t end = column + kSize < n ? column + kSize : n;
    if (classes[row + kRows - 1] < classes[column]) return Pairs::kNegative;
    return classes[row] == classes[end - 1] ? Pairs::kPositive : Pairs::kMixed;
  }

  // This block's first row of a row of tiles.
  static FT_DEVICE int64_t first_row(int row_tile) {
    return static_cast<int64_t>(row_tile) * kSize + Tile::rank() * kRows;
  }

  FT_DEVICE void screen_tile(int row_tile, int column_tile, int turn, TilePlace* next,
                             typename Tile::Pipeline& pipeline) const {
    char* const buffer = shared_memory();
    Rows* const rows = reinterpret_cast<Rows*>(buffer + kBufferBytes);
    Columns* const columns = reinterpret_cast<Columns*>(rows + 1);
    Tile::start(source, row_tile, column_tile, buffer, pipeline);
    uint64_t number = 0;
    if (thread_index() == 0) number = take_number(turn);  // comes back while the lines are loaded
    const bool wanted = load_tile_lines(row_tile, column_tile, rows, columns);
    if (thread_index() == 0) *next = tile_taken(number);
    if (!block_any(wanted)) {
      if constexpr (kClusterBlocks == 1) return Tile::abandon(source, buffer, pipeline);
    }

    Sums sums;
    Tile::multiply(source, row_tile, column_tile, buffer, pipeline, sums);
    const Pairs pairs = pairs_of(row_tile, column_tile);  // again: kept, it would cost the products a register
    const int row = Tile::Layout::first_row(), column = Tile::Layout::first_column();
    const Place place = {first_row(row_tile) + row, static_cast<int64_t>(column_tile) * kSize + column, row, column,
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
    Tile::leave();
    block_barrier();  // the next tile overwrites shared memory
    Tile::finish(source.depth, buffer, pipeline);
  }

  // False where no row that this thread has seen searches what the tile has.
  FT_DEVICE bool load_tile_lines(int row_tile, int column_tile, Rows* rows, Columns* columns) const {
    const Pairs pairs = pairs_of(row_tile, column_tile);
    bool wanted = false;
    const int64_t row = first_row(row_tile), column = static_cast<int64_t>(column_tile) * kSize;
#pragma unroll
    for (int s = 0; s < kSearches; ++s) {
      const Search search = static_cast<Search>(s);
      if (pairs == (search == kNearest ? Pairs::kPositive : Pairs::kNegative)) continue;
      for (int t = thread_index(); t < kRows + kSize; t += kThreads)
        wanted |= t < kRows ? load_line(search, row + t, t, rows->search[search])
                            : load_line(search, column + t - kRows, t - kRows, columns->search[search]);
    }
    return wanted;
  }

  // Row r as number k of its line.
  template <int kLength>
  FT_DEVICE bool load_line(Search search, int64_t r, int k, Line<kLength>& line) const {
    const Anchors& all = anchors[search];
    Terms terms = {0, 0, infinity(), infinity()};
    float threshold = infinity();
    if (r < n) {
      terms = all.terms[r];
      const float best = ordered_value(load_fresh(all.best + r));
      if (all.active[r]) threshold = add_down(terms.anchor, -best);
    }
    line.key[k] = terms.candidate;
    line.key_upper[k] = terms.candidate_upper;
    line.anchor[k] = terms.anchor;
    line.anchor_upper[k] = terms.anchor_upper;
    line.threshold[k] = threshold;
    return threshold < infinity();
  }

  // Whether a product of the warp may improve its row's or its column's anchor.
  template <Search kSearch>
  static FT_DEVICE bool hits_any(const Sums& sums, const Place& at, const Rows& rows, const Columns& columns) {
    const Line<kRows>& row_line = rows.search[kSearch];
    const Line<kSize>& column_line = columns.search[kSearch];
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
  FT_DEVICE void look_closer(const Place& at, bool pure, const Rows& row_side, const Columns& column_side,
                             const float* products) const {
    const Line<kRows>& rows = row_side.search[kSearch];
    const Line<kSize>& columns = column_side.search[kSearch];
    const int lane = at.lane;
    // A row a lane, then a column a lane; of a part of 16 rows half of the lanes have none.
    for (int first = 0; first < Sums::kRows; first += kWarp) {
      if (first + lane >= Sums::kRows) continue;
      const int r = first + lane;
      const int64_t anchor = at.i + r;
      meet<kSearch, Sums::kColumns>(
          anchor, at.j, pure, rows, at.row + r, columns, at.column, [&](int c) { return products[Sums::place(r, c)]; },
          [&](int c) { return anchor < at.j + c; });
    }
    for (int first = 0; first < Sums::kColumns; first += kWarp) {
      const int c = first + lane;
      const int64_t anchor = at.j + c;
      meet<kSearch, Sums::kRows>(
          anchor, at.i, pure, columns, at.column + c, rows, at.row, [&](int r) { return products[Sums::place(r, c)]; },
          [&](int r) { return at.i + r < anchor; });
    }
  }

  // This lane's anchor, number `own` of its line, and the candidates from `first` on, numbers `from` on of theirs;
  // `dot` is the product with one of them, `above` says whether the pair lies above the diagonal. No padding row hits:
  // its threshold and its key are infinite.
  //
  // Lanes have their hits at different candidates, and keeping one is a trip or two to the second-level cache:
  // candidates are noted as bits first, so that a warp makes as many trips as the lane with most of them, not one for
  // every candidate that some lane keeps.
  template <Search kSearch, int kCount, typename Own, typename Others, typename Dot, typename Above>
  FT_DEVICE void meet(int64_t anchor, int64_t first, bool pure, const Own& line, int own, const Others& others,
                      int from, Dot&& dot, Above&& above) const {
    constexpr int kNoted = 64;
    const Anchors& all = anchors[kSearch];
    const float threshold = line.threshold[own];
    if (!(threshold < infinity())) return;
    const auto hit = [&](int k) {
      return hits<kSearch>(dot(k), others.key[from + k], threshold) &&
             (pure || (above(k) && (classes[anchor] == classes[first + k]) == (kSearch == kFarthest))) &&
             partners.allows(kSearch, anchor, first + k);
    };
    for (int begin = 0; begin < kCount; begin += kNoted) {
      constexpr int kLength = kCount < kNoted ? kCount : kNoted;
      uint64_t noted = 0;
      float smallest = infinity();
      for (int k = 0; k < kLength; ++k) {
        if (!hit(begin + k)) continue;
        noted |= uint64_t{1} << k;
        const float upper = add_up(add_up(line.anchor_upper[own], others.key_upper[from + begin + k]),
                                   -signed_product<kSearch>(dot(begin + k)));
        smallest = upper < smallest ? upper : smallest;
      }
      if (noted == 0) continue;
      uint32_t best = atomic_min(all.best + anchor, ordered_bits(smallest));
      if (ordered_bits(smallest) < best) best = ordered_bits(smallest);
      for (uint64_t left = noted; left != 0; left &= left - 1) {
        const int k = lowest_bit(left);
        if (lower_end<kSearch>(line.anchor[own], others.key[from + begin + k], dot(begin + k)) > best)
          noted ^= uint64_t{1} << k;
      }
      for (; noted != 0; noted &= noted - 1) {
        const int k = begin + lowest_bit(noted);
        keep(kSearch, anchor, first + k, lower_end<kSearch>(line.anchor[own], others.key[from + k], dot(k)), best);
      }
    }
  }

  template <Search kSearch>
  static FT_DEVICE uint32_t lower_end(float anchor, float candidate, float dot) {
    return ordered_bits(add_down(add_down(anchor, candidate), -signed_product<kSearch>(dot)));
  }

  // Takes an empty slot, or one whose candidate the best has left behind.
  FT_DEVICE void keep(Search search, int64_t anchor, int64_t candidate, uint32_t lower, uint32_t best) const {
    const Anchors& all = anchors[search];
    const uint64_t entry = static_cast<uint64_t>(lower) << 32 | static_cast<uint64_t>(candidate);
    uint64_t* const slots = all.slots + anchor * all.length;
    static_assert(kSlotsAtOnce == 4);
    for (uint64_t* slot = slots; slot != slots + all.length; slot += kSlotsAtOnce) {
      // Not an array: some architectures would keep it in memory.
      const uint64_t first = load_fresh(slot), second = load_fresh(slot + 1), third = load_fresh(slot + 2),
                     fourth = load_fresh(slot + 3);
      if (take(slot, first, entry, best) || take(slot + 1, second, entry, best) || take(slot + 2, third, entry, best) ||
          take(slot + 3, fourth, entry, best))
        return;
    }
    if (atomic_max(all.overflown + anchor, 1u) == 0) atomic_add(overflows + search, 1u);
    all.active[anchor] = 0;  // later tiles need not look
  }

  // Whether the slot, in which `found` lay, has room for the entry, which then lies in it.
  static FT_DEVICE bool take(uint64_t* slot, uint64_t found, uint64_t entry, uint32_t best) {
    while (found >> 32 > best) {
      const uint64_t before = compare_and_swap(slot, found, entry);
      if (before == found) return true;
      found = before;
    }
    return false;
  }
};

}  // namespace fasttriplet::cuda
