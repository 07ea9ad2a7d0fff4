// The screen: dot products, summed in float32, of the upper triangle, each tile tested at once for its rows and for its
// columns. No dot product leaves the registers unless some test hits. Compiled once per instruction set.
//
// Register tile: kHeight rows x 3 vectors. kHeight x 3 accumulators + 3 columns + 1 broadcast fill the register file:
// 8 x 3 + 4 = 28 of 32 with AVX-512, 4 x 3 + 4 = 16 of 16 with AVX2 and SSE2. Twelve or more independent sums hide the
// latency of the fused multiply-add, 4 cycles at 2 per cycle. A step of the depth loads 3 vectors and kHeight words for
// 3 kHeight products.

namespace fasttriplet::cpu::FT_TIER {

using Vec = FT_VEC;
constexpr int kLanes = Vec::kLanes;
constexpr int kVectors = 3;
constexpr int kWidth = kVectors * kLanes;
constexpr int kHeight = kLanes == 16 ? 8 : 4;
static_assert(kWidth % kHeight == 0, "the rows of a tile must lie in one panel");

using Lanes = Vec::Lanes;
using Mask = Vec::Mask;

// acc[r][c] = sum over k of rows[k][r] * columns[k][c]
FT_INLINE void multiply(const float* rows, const float* columns, int64_t depth, Lanes (&acc)[kHeight][kVectors]) {
  for (int r = 0; r < kHeight; ++r)
    for (int c = 0; c < kVectors; ++c) acc[r][c] = Vec::zero();
  for (int64_t k = 0; k < depth; ++k) {
    Lanes column[kVectors];
    for (int c = 0; c < kVectors; ++c) column[c] = Vec::load(columns + c * kLanes);
    for (int r = 0; r < kHeight; ++r) {
      const Lanes row = Vec::set1(rows[r]);
      for (int c = 0; c < kVectors; ++c) acc[r][c] = Vec::multiply_add(row, column[c], acc[r][c]);
    }
    rows += kWidth;
    columns += kWidth;
  }
}

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
  return Vec::either(Vec::at_least(signed_dot, row_limit), Vec::at_least(signed_dot, column_limit));
}

// Tests a tile for one search. Pure: strictly above the diagonal, all pairs negative, or all positive. Otherwise what
// hits is looked at again, for pairs below the diagonal and of the other kind.
template <bool kPositive, bool kPure>
FT_INLINE void test_tile(const ScreenTask& task, TilePlace at, const Lanes (&acc)[kHeight][kVectors]) {
  const ScreenTask::Search& search = kPositive ? task.farthest : task.nearest;
  const float* row_key = search.key + at.i;
  const float* row_threshold = search.row_threshold + (at.i - task.row_begin);
  const float* column_key = search.key + at.j;
  const float* column_threshold = search.column_threshold + (at.j - task.column_begin);
  Mask any = Vec::none();
  for (int r = 0; r < kHeight; ++r)
    for (int c = 0; c < kVectors; ++c)
      any = Vec::either(any, hits<kPositive>(acc[r][c], row_key[r], row_threshold[r], column_key + c * kLanes,
                                             column_threshold + c * kLanes));
  if (__builtin_expect(Vec::bits(any) == 0, 1)) return;
  alignas(64) float dots[kHeight][kWidth];
  for (int r = 0; r < kHeight; ++r)
    for (int c = 0; c < kVectors; ++c) Vec::store(dots[r] + c * kLanes, acc[r][c]);
  for (int r = 0; r < kHeight; ++r)
    for (int c = 0; c < kVectors; ++c) {
      // Again, row by row: an earlier hit of this tile may have lowered the thresholds.
      unsigned bits = Vec::bits(hits<kPositive>(Vec::load(dots[r] + c * kLanes), row_key[r], row_threshold[r],
                                                column_key + c * kLanes, column_threshold + c * kLanes));
      for (; bits != 0; bits &= bits - 1) {
        const int lane = c * kLanes + __builtin_ctz(bits);
        const int64_t i = at.i + r, j = at.j + lane;
        if (kPure || (j > i && (task.classes[i] == task.classes[j]) == kPositive))
          task.hit(task.context, i, j, dots[r][lane], kPositive);
      }
    }
}

inline void screen(const ScreenTask& task) {
  for (int64_t j = task.column_begin; j < task.column_end; j += kWidth) {
    const float* columns = task.panels.data + j * task.panels.depth;
    for (int64_t i = task.row_begin; i < task.row_end && i < j + kWidth; i += kHeight) {
      const int64_t panel = i / kWidth * kWidth;
      Lanes acc[kHeight][kVectors];
      multiply(task.panels.data + panel * task.panels.depth + (i - panel), columns, task.panels.depth, acc);
      const bool above = i + kHeight <= j;
      const int32_t row_first = task.classes[i], row_last = task.classes[i + kHeight - 1];
      const int32_t column_first = task.classes[j], column_last = task.classes[j + kWidth - 1];
      if (above && row_last < column_first) {
        test_tile<false, true>(task, {i, j}, acc);
      } else if (above && row_first == column_last) {
        test_tile<true, true>(task, {i, j}, acc);
      } else {
        test_tile<false, false>(task, {i, j}, acc);
        test_tile<true, false>(task, {i, j}, acc);
      }
    }
  }
}

}  // namespace fasttriplet::cpu::FT_TIER
