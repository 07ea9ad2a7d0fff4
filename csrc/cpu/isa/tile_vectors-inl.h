// A tile of dot products in vector registers, from one packed copy. A panel is [depth, width] words: whole it serves as
// columns of a tile, and any kHeight neighbouring lanes of it serve as rows. A broadcast moves a word whole.
//
// Register tile: kHeight rows x 3 vectors. kHeight x 3 accumulators + 3 columns + 1 broadcast fill the register file.
// That is 8 x 3 + 4 = 28 of 32 with AVX-512, and 4 x 3 + 4 = 16 of 16 with AVX2 and SSE2. Twelve or more independent
// sums hide the latency of the fused multiply-add, 4 cycles at 2 per cycle. A step of the depth loads 3 vectors and
// kHeight words for 3 kHeight products.

namespace fasttriplet::cpu::FT_TIER {

constexpr int kVectors = 3;
constexpr int kWidth = kVectors * kLanes;
constexpr int kHeight = kLanes == 16 ? 8 : 4;
static_assert(kWidth % kHeight == 0, "the rows of a tile must lie in one panel");
// Sums of float32 products are taken in parts, which bounds their error far below that of one long sum. A part that
// ends moves 3 kHeight accumulators: one step in twelve with AVX2.
constexpr int64_t kPart = Vec::kFormat == Format::kFloat32 ? kSumPart : int64_t{1} << 62;
constexpr Layout kLayout = {Vec::kFormat, kWidth, 1, 1};

struct TileSession {
  TileSession() {}  // nothing to set up
};

class Tile {
 public:
  // acc[r][c] = sum over k of rows[k][r] * columns[k][c], i and j the first row and the first column
  FT_INLINE void multiply(const Panels& panels, int64_t i, int64_t j) { multiply_vectors<0, kVectors>(panels, i, j); }

  // Likewise where only vectors [first, last) of the columns are wanted. The others become NaN, which passes no test,
  // or in fixed point, which has none, zero: what passes there is below the diagonal or padding, and is dropped.
  FT_INLINE void multiply_part(const Panels& panels, int64_t i, int64_t j, int first, int last) {
    for (int r = 0; r < kHeight; ++r)
      for (int c = 0; c < kVectors; ++c)
        acc_[r][c] = kLayout.fixed_point() ? Vec::zero() : Vec::set1(__builtin_nanf(""));
    static_assert(kVectors == 3);
    if (first == 2) return multiply_vectors<2, 3>(panels, i, j);
    if (first == 1) return last == 2 ? multiply_vectors<1, 2>(panels, i, j) : multiply_vectors<1, 3>(panels, i, j);
    if (last == 1) return multiply_vectors<0, 1>(panels, i, j);
    return last == 2 ? multiply_vectors<0, 2>(panels, i, j) : multiply(panels, i, j);
  }

  FT_INLINE Lanes lanes(int r, int c) const { return product_of(r, c); }

 private:
  // Where it is used, not all at once: the registers are full.
  template <typename V = Vec>
  FT_INLINE Lanes product_of(int r, int c) const {
    if constexpr (kLayout.fixed_point()) return V::products_of(acc_[r][c], row_steps_[r], column_steps_ + c * kLanes);
    return acc_[r][c];
  }

  template <int kFirst, int kLast>
  FT_INLINE void multiply_vectors(const Panels& panels, int64_t i, int64_t j) {
    const int64_t panel = i / kWidth * kWidth;
    const float* rows = panels.data + panel * panels.depth + (i - panel);
    const float* columns = panels.data + j * panels.depth;
    const auto multiply_words = [&](int64_t words) FT_INLINE_LAMBDA {
      Lanes sums[kHeight][kVectors];
      for (int r = 0; r < kHeight; ++r)
        for (int c = kFirst; c < kLast; ++c) sums[r][c] = first_sum(panels, i + r);
      for (int64_t k = 0; k < words; ++k) {
        Lanes column[kVectors];
        for (int c = kFirst; c < kLast; ++c) column[c] = load_columns(columns + c * kLanes);
        for (int r = 0; r < kHeight; ++r) {
          const Lanes row = Vec::set1(rows[r]);
          for (int c = kFirst; c < kLast; ++c) sums[r][c] = Vec::multiply_add(row, column[c], sums[r][c]);
        }
        rows += kWidth;
        columns += kWidth;
      }
      for (int r = 0; r < kHeight; ++r)
        for (int c = kFirst; c < kLast; ++c) acc_[r][c] = sums[r][c];
    };
    int64_t left = panels.depth;
    if (left <= kPart) {
      multiply_words(left);
    } else {
      Lanes sums[kHeight][kVectors];
      for (int r = 0; r < kHeight; ++r)
        for (int c = kFirst; c < kLast; ++c) sums[r][c] = Vec::zero();
      for (; left > 0; left -= kPart) {
        multiply_words(left < kPart ? left : kPart);
        for (int r = 0; r < kHeight; ++r)
          for (int c = kFirst; c < kLast; ++c) sums[r][c] = Vec::add(sums[r][c], acc_[r][c]);
      }
      for (int r = 0; r < kHeight; ++r)
        for (int c = kFirst; c < kLast; ++c) acc_[r][c] = sums[r][c];
    }
    if constexpr (kLayout.fixed_point()) {
      row_steps_ = panels.steps + i;
      column_steps_ = panels.steps + j;
    }
  }

  static FT_INLINE Lanes first_sum(const Panels& panels, int64_t row) {
    if constexpr (kLayout.format == Format::kInt8) return Vec::set1(panels.first_sums[row]);
    return Vec::zero();
  }
  template <typename V = Vec>
  static FT_INLINE Lanes load_columns(const float* words) {
    if constexpr (kLayout.format == Format::kInt8) return V::to_unsigned(V::load(words));
    return V::load(words);
  }

  Lanes acc_[kHeight][kVectors];
  const float* row_steps_ = nullptr;  // of fixed point
  const float* column_steps_ = nullptr;
};

// Words [begin, begin + count) of a panel's rows, of `stride` words each.
FT_INLINE void put_words(const float* words, int64_t stride, int64_t begin, int64_t count, int64_t, float* panel) {
  for (int64_t k = 0; k < count; k += kLanes)
    for (int c = 0; c < kVectors; ++c)
      transpose(words + c * kLanes * stride + k, stride, panel + (begin + k) * kWidth + c * kLanes, kWidth, count - k);
}

// What the panel of rows `first` and on brings besides their words.
template <typename V = Vec>
FT_INLINE void finish_panel(const float* panel, int64_t depth, int64_t first, float* first_sums) {
  if constexpr (kLayout.format == Format::kInt8)
    for (int c = 0; c < kVectors; ++c)
      V::store(first_sums + first + c * kLanes, V::first_sums(panel + c * kLanes, depth, kWidth));
}

}  // namespace fasttriplet::cpu::FT_TIER
