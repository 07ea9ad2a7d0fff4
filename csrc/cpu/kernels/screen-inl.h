// The screen: dot products, summed in float32, of the upper triangle, each tile tested at once for its rows and for its
// columns. Needs a Tile (tile_*-inl.h) of kHeight rows x kVectors vectors. Compiled once per instruction set.

namespace fasttriplet::cpu::FT_TIER {

// Rows tested together; where one hits, these few are looked at again.
constexpr int kTestHeight = kHeight < 8 ? kHeight : 8;

struct TilePlace {
  int64_t i, j;  // first row, first column
};

// Lanes of one row that may improve the row's anchor or a column's (core/bound.h).
template <bool kPositive>
FT_INLINE Mask hits(Lanes dot, float row_key, float row_threshold, const float* column_key,
                    const float* column_threshold) {
  const Lanes signed_dot = kPositive ? Vec::negate(dot) : dot;
  const Lanes row_limit = Vec::add(Vec::load(column_key), Vec::set1(row_threshold));
  const Lanes column_limit = Vec::add(Vec::load(column_threshold), Vec::set1(row_key));
  return Vec::at_least(signed_dot, Vec::smaller(row_limit, column_limit));
}

// Tests a tile for one search. Pure: strictly above the diagonal, all pairs negative, or all positive. Otherwise what
// hits is looked at again, for pairs below the diagonal and of the other kind.
template <bool kPositive, bool kPure>
FT_INLINE void test_tile(const ScreenTask& task, TilePlace at, const Tile& tile) {
  const ScreenTask::Search& search = kPositive ? task.farthest : task.nearest;
  const float* row_key = search.key + at.i;
  const float* row_threshold = search.row_threshold + (at.i - task.row_begin);
  const float* column_key = search.key + at.j;
  const float* column_threshold = search.column_threshold + (at.j - task.column_begin);
  for (int top = 0; top < kHeight; top += kTestHeight) {
    Mask any = Vec::none();
    for (int r = top; r < top + kTestHeight; ++r)
      for (int c = 0; c < kVectors; ++c)
        any = Vec::either(any, hits<kPositive>(tile.lanes(r, c), row_key[r], row_threshold[r], column_key + c * kLanes,
                                               column_threshold + c * kLanes));
    if (__builtin_expect(Vec::bits(any) == 0, 1)) continue;
    alignas(64) float dots[kTestHeight][kWidth];
    for (int r = 0; r < kTestHeight; ++r)
      for (int c = 0; c < kVectors; ++c) Vec::store(dots[r] + c * kLanes, tile.lanes(top + r, c));
    for (int r = top; r < top + kTestHeight; ++r)
      for (int c = 0; c < kVectors; ++c) {
        const float* dot = dots[r - top] + c * kLanes;
        // Again, row by row: an earlier hit of this tile may have lowered the thresholds.
        unsigned bits = Vec::bits(hits<kPositive>(Vec::load(dot), row_key[r], row_threshold[r], column_key + c * kLanes,
                                                  column_threshold + c * kLanes));
        for (; bits != 0; bits &= bits - 1) {
          const int lane = __builtin_ctz(bits);
          const int64_t i = at.i + r, j = at.j + c * kLanes + lane;
          if (kPure || (j > i && (task.classes[i] == task.classes[j]) == kPositive))
            task.hit(task.context, i, j, dot[lane], kPositive);
        }
      }
  }
}

// Whether a tile above the diagonal may hold a pair that is looked for.
FT_INLINE bool wanted(const ScreenTask& task, TilePlace at) {
  if (task.nearest.wanted && task.farthest.wanted) return true;
  if (task.nearest.wanted) return task.classes[at.i] != task.classes[at.j + kWidth - 1];
  return task.classes[at.i + kHeight - 1] >= task.classes[at.j];
}

inline void screen(const ScreenTask& task) {
  const TileSession session;
  Tile tile;
  for (int64_t j = task.column_begin; j < task.column_end; j += kWidth) {
    for (int64_t i = task.row_begin; i < task.row_end && i < j + kWidth; i += kHeight) {
      // Vectors of columns that lie right of the tile's first row, and are not padding. Tiles that lack some are tested
      // in a branch of their own, as mixed ones are: what joins two ways to multiply would go through memory.
      const int first = i < j ? 0 : static_cast<int>(i - j + 1) / kLanes;
      const int last =
          task.column_end - j >= kWidth ? kVectors : static_cast<int>(task.column_end - j + kLanes - 1) / kLanes;
      if (first > 0 || last < kVectors) {
        if (first >= last) continue;
        tile.multiply_part(task.panels, i, j, first, last);
        test_tile<false, false>(task, {i, j}, tile);
        test_tile<true, false>(task, {i, j}, tile);
        continue;
      }
      // Of its own, though much of it is asked again: what is kept across the product costs a tenth of all (gcc 12).
      if (!wanted(task, {i, j})) continue;
      tile.multiply(task.panels, i, j);
      const bool above = i + kHeight <= j;
      const int32_t row_first = task.classes[i], row_last = task.classes[i + kHeight - 1];
      const int32_t column_first = task.classes[j], column_last = task.classes[j + kWidth - 1];
      if (above && row_last < column_first) {
        test_tile<false, true>(task, {i, j}, tile);
      } else if (above && row_first == column_last) {
        test_tile<true, true>(task, {i, j}, tile);
      } else {
        test_tile<false, false>(task, {i, j}, tile);
        test_tile<true, false>(task, {i, j}, tile);
      }
    }
  }
}

}  // namespace fasttriplet::cpu::FT_TIER
