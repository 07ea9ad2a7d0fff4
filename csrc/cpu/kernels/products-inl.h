// Products of edge weights with rows, either way: of a row of weights with the columns' rows, of a column with the
// anchors' rows. Neither the weights nor their products are ever [N, N]. Compiled once per instruction set that screens
// in float32.

namespace fasttriplet::cpu::FT_TIER {

// sums[r][k] += sum over columns of weights[r][j] * rows[j][k]. Register tile: kTall rows of weights x 3 vectors of
// entries. Columns go by 256: 3 vectors of entries of each, 48 KB with AVX-512, stay in the second cache for all rows.
constexpr int kTall = kLanes == 16 ? 8 : 4;
constexpr int64_t kDeep = 256;

// Weight [r, j] is weights[r * across + j * along].
template <int kHigh, int kWide>
FT_INLINE void multiply_block(const float* weights, int64_t across, int64_t along, const float* rows, int64_t depth,
                              int64_t columns, double* sums) {
  Lanes acc[kHigh][kWide];
  for (int r = 0; r < kHigh; ++r)
    for (int c = 0; c < kWide; ++c) acc[r][c] = Vec::zero();
  // The sums of all columns lie in the outer caches, and are wanted last.
  for (int r = 0; r < kHigh; ++r)
    for (int k = 0; k < kWide * kLanes; k += 8) __builtin_prefetch(sums + r * depth + k, 1);
  for (int64_t j = 0; j < columns; ++j) {
    Lanes entries[kWide];
    for (int c = 0; c < kWide; ++c) entries[c] = Vec::load(rows + j * depth + c * kLanes);
    for (int r = 0; r < kHigh; ++r) {
      const Lanes weight = Vec::set1(weights[r * across + j * along]);
      for (int c = 0; c < kWide; ++c) acc[r][c] = Vec::multiply_add(weight, entries[c], acc[r][c]);
    }
  }
  for (int r = 0; r < kHigh; ++r)
    for (int c = 0; c < kWide; ++c) {
      float values[kLanes];
      Vec::store(values, acc[r][c]);
      for (int lane = 0; lane < kLanes; ++lane)
        sums[r * depth + c * kLanes + lane] += static_cast<double>(values[lane]);
    }
}

template <int kWide>
FT_INLINE void multiply_columns(const float* weights, int64_t across, int64_t along, int64_t count, const float* rows,
                                int64_t depth, int64_t columns, double* sums) {
  int64_t r = 0;
  for (; r + kTall <= count; r += kTall)
    multiply_block<kTall, kWide>(weights + r * across, across, along, rows, depth, columns, sums + r * depth);
  for (; r < count; ++r)
    multiply_block<1, kWide>(weights + r * across, across, along, rows, depth, columns, sums + r * depth);
}

// `count` rows of weights with up to kDeep rows of entries.
FT_INLINE void multiply_blocks(const float* weights, int64_t across, int64_t along, int64_t count, const float* rows,
                               int64_t depth, int64_t columns, double* sums) {
  int64_t k = 0;
  for (; k + 3 * kLanes <= depth; k += 3 * kLanes)
    multiply_columns<3>(weights, across, along, count, rows + k, depth, columns, sums + k);
  if (k + 2 * kLanes == depth)  // two at once: one vector's sums alone would wait for each other
    multiply_columns<2>(weights, across, along, count, rows + k, depth, columns, sums + k);
  else if (k < depth)
    multiply_columns<1>(weights, across, along, count, rows + k, depth, columns, sums + k);
}

inline void weighted_sums(const WeightedSums& task) {
  for (int64_t first = 0; first < task.columns; first += kDeep) {
    const int64_t columns = task.columns - first < kDeep ? task.columns - first : kDeep;
    multiply_blocks(task.weights + first, task.stride, 1, task.count, task.rows + first * task.depth, task.depth,
                    columns, task.sums);
  }
}

// Weights of some columns are copied side by side first: in the strip each lies in a line of the cache of its own, at
// distances that may all fall into one set. Those of 16 columns and 256 rows are 16 KB of the first cache.
inline void transposed_sums(const WeightedSums& task) {
  constexpr int64_t kColumns = 16;
  alignas(64) float weights[kDeep * kColumns];
  for (int64_t column = 0; column < task.columns; column += kColumns) {
    const int64_t columns = task.columns - column < kColumns ? task.columns - column : kColumns;
    for (int64_t first = 0; first < task.count; first += kDeep) {
      const int64_t count = task.count - first < kDeep ? task.count - first : kDeep;
      for (int64_t r = 0; r < count; ++r) {
        const float* const from = task.weights + (first + r) * task.stride + column;
        for (int64_t c = 0; c < columns; ++c) weights[r * kColumns + c] = from[c];
      }
      multiply_blocks(weights, 1, kColumns, columns, task.rows + first * task.depth, task.depth, count,
                      task.sums + column * task.depth);
    }
  }
}

}  // namespace fasttriplet::cpu::FT_TIER
