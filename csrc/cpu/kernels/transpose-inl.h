// Square blocks of words, transposed in registers. Compiled once per instruction set.

namespace fasttriplet::cpu::FT_TIER {

// to[c][r] = from[r][c] for r, c < kLanes, the first `count` rows of `to` only. Each of log2(kLanes) rounds interleaves
// row i with row i + kLanes / 2; words move as float32 lanes, untouched.
FT_INLINE void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t count) {
  Lanes rows[kLanes], zipped[kLanes];
  for (int r = 0; r < kLanes; ++r) rows[r] = Vec::load(from + r * from_stride);
  for (int round = 1; round < kLanes; round *= 2) {
    for (int r = 0; r < kLanes / 2; ++r) {
      zipped[2 * r] = Vec::zip_low(rows[r], rows[r + kLanes / 2]);
      zipped[2 * r + 1] = Vec::zip_high(rows[r], rows[r + kLanes / 2]);
    }
    for (int r = 0; r < kLanes; ++r) rows[r] = zipped[r];
  }
  for (int r = 0; r < kLanes; ++r)
    if (r < count) Vec::store(to + r * to_stride, rows[r]);
}

}  // namespace fasttriplet::cpu::FT_TIER
