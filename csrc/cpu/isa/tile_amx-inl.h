// A tile of dot products by Intel's tile unit: 32 rows x 32 columns as 2 x 2 of its 16 x 16 sums, from bfloat16 pairs.
// Those are two neighbouring entries, or a part of each of two, as FT_FORMAT says.
//
//                                   cycles each (Sapphire Rapids)
//   tdpbf16ps tmm, tmm, tmm         16: 16 x 16 x 32 products
//   tileloadd tmm, [base + stride]  8 from the first cache, about 16 from the second
//   tilestored                      16
//
// Four products a step of 32 entries, 64 cycles, need two tiles of rows and two of columns, 4 KB: 32 cycles from the
// first cache, 64 from the second. So of each task the columns' panel, 64 D bytes, twice that of parts, stays in the
// first cache and the rows stream.
//
// The unit wants its operands in two orders, rows as [row, word] and columns as [word, column]. Each panel holds both,
// as tiles of 1 KB: [depth / 16, 2 halves, 16, 16] words of rows, then as many of columns.
//
// Parts x = a + b of 32 entries are 16 words of a and then 16 of b. Three products, b by a, a by a and a by b, leave
// out that of the lower parts (core/bound.h).
//
// Sums: products are exact. 16 of the even and 16 of the odd entries are added in float32, then both to the tile. On no
// way are there more roundings than core/bound.h counts. Denormals count as zero going in and coming out, as kTiny
// allows for.

namespace fasttriplet::cpu::FT_TIER {

constexpr int kSide = 16;  // rows, and words of a row, of the unit's tile
constexpr int kVectors = 2;
constexpr int kWidth = kVectors * kLanes;
constexpr int kHeight = 2 * kSide;
constexpr int64_t kTileWords = kSide * kSide;
static_assert(kLanes == kSide);
constexpr bool kParts = Format::FT_FORMAT == Format::kBfloat16x2;
constexpr Layout kLayout = {Format::FT_FORMAT, kWidth, kParts ? 2 * kSide : kSide, 2};

// GCC's intrinsics do not say that they read memory: stores before them must not be put off or dropped.
FT_INLINE void settle_stores(const void* to) { asm volatile("" ::"r"(to) : "memory"); }

// The shapes of the tiles on this thread; given back at the end, since saved state costs at every thread switch.
class TileSession {
 public:
  TileSession() {
    struct alignas(64) Config {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_per_row[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < 8; ++tile) {
      config.bytes_per_row[tile] = kSide * sizeof(float);
      config.rows[tile] = kSide;
    }
    settle_stores(&config);
    _tile_loadconfig(&config);
  }
  ~TileSession() { _tile_release(); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

class Tile {
 public:
  // dots[r][c] = row i + r times row j + c, i and j multiples of kWidth
  FT_INLINE void multiply(const Panels& panels, int64_t i, int64_t j) {
    const float* rows = panels.data + kLayout.copies * i * panels.depth;
    const float* columns = panels.data + (kLayout.copies * j + kWidth) * panels.depth;
    settle_stores(panels.data);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if constexpr (kParts) {
      for (int64_t k = 0; k < panels.depth; k += 2 * kSide) {
        load_rows(rows);
        load_columns(columns + 2 * kTileWords);
        multiply_loaded();
        load_columns(columns);
        multiply_loaded();
        load_rows(rows + 2 * kTileWords);
        multiply_loaded();
        rows += 4 * kTileWords;
        columns += 4 * kTileWords;
      }
    } else {
      for (int64_t k = 0; k < panels.depth; k += kSide) {
        load_columns(columns);
        load_rows(rows);
        multiply_loaded();
        rows += 2 * kTileWords;
        columns += 2 * kTileWords;
      }
    }
    _tile_stored(0, dots_[0], sizeof dots_[0]);
    _tile_stored(1, dots_[0] + kSide, sizeof dots_[0]);
    _tile_stored(2, dots_[kSide], sizeof dots_[0]);
    _tile_stored(3, dots_[kSide] + kSide, sizeof dots_[0]);
  }

  // Where part of the columns are wanted; here all are multiplied.
  FT_INLINE void multiply_part(const Panels& panels, int64_t i, int64_t j, int, int) { multiply(panels, i, j); }

  FT_INLINE Lanes lanes(int r, int c) const { return Vec::load(dots_[r] + c * kLanes); }

 private:
  static constexpr int kStride = kSide * sizeof(float);
  static FT_INLINE void load_rows(const float* tiles) {
    _tile_loadd(4, tiles, kStride);
    _tile_loadd(5, tiles + kTileWords, kStride);
  }
  static FT_INLINE void load_columns(const float* tiles) {
    _tile_loadd(6, tiles, kStride);
    _tile_loadd(7, tiles + kTileWords, kStride);
  }
  static FT_INLINE void multiply_loaded() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }

  alignas(64) float dots_[kHeight][kWidth];
};

// Words [begin, begin + count) of a panel's rows, of `stride` words each; zeros up to whole tiles lie behind the count.
FT_INLINE void put_words(const float* words, int64_t stride, int64_t begin, int64_t count, int64_t depth,
                         float* panel) {
  for (int64_t k = 0; k < count; k += kSide)
    for (int half = 0; half < 2; ++half) {
      const float* from = words + half * kSide * stride + k;
      float* rows = panel + (2 * (begin + k) / kSide + half) * kTileWords;
      for (int r = 0; r < kSide; ++r) Vec::store(rows + r * kSide, Vec::load(from + r * stride));
      transpose(from, stride, rows + kWidth * depth, kSide, kSide);
    }
}

FT_INLINE void finish_panel(const float*, int64_t, int64_t, float*) {}

}  // namespace fasttriplet::cpu::FT_TIER
