// Whole rows of keys, and what is looked for in one. A strip of rows against all columns is written out, so that a
// miner may ask of each row what it needs. Needs a Tile (tile_*-inl.h). Compiled once per instruction set.

namespace fasttriplet::cpu::FT_TIER {

inline void strip(const StripTask& task) {
  const TileSession session;
  Tile tile;
  for (int64_t j = 0; j < task.columns; j += kWidth) {
    for (int64_t top = 0; top < task.rows; top += kHeight) {
      tile.multiply(task.panels, task.row_begin + top, task.column_begin + j);
      for (int r = 0; r < kHeight; ++r) {
        const Lanes row_term = Vec::set1(task.row_terms[top + r]);
        float* const keys = task.keys + (top + r) * task.columns + j;
        for (int c = 0; c < kVectors; ++c) {
          const Lanes terms = Vec::add(row_term, Vec::load(task.column_terms + j + c * kLanes));
          Vec::store(keys + c * kLanes, Vec::subtract(terms, tile.lanes(r, c)));
        }
      }
    }
  }
}

// Calls f(column, keys, widths) for every vector of a row; NaN lies behind the last column. A step above 1 takes only
// every so manieth vector.
template <typename F>
FT_INLINE void for_each_vector(const RowOfKeys& row, int64_t step, F&& f) {
  int64_t j = 0;
  for (; j + kLanes <= row.count; j += step * kLanes) f(j, Vec::load(row.keys + j), Vec::load(row.widths + j));
  if (step > 1) return;
  if (j == row.count) return;
  float keys[kLanes], widths[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    keys[lane] = j + lane < row.count ? row.keys[j + lane] : __builtin_nanf("");
    widths[lane] = j + lane < row.count ? row.widths[j + lane] : 0.0f;
  }
  f(j, Vec::load(keys), Vec::load(widths));
}

FT_INLINE float smallest_lane(Lanes v) {
  float lanes[kLanes], smallest = __builtin_inff();
  Vec::store(lanes, v);
  for (const float lane : lanes) smallest = lane < smallest ? lane : smallest;
  return smallest;
}

template <int kCount>
FT_INLINE void smallest_above_each(const RowOfKeys& row, int64_t step, const float* sure, float* bounds) {
  Lanes floor[kCount], best[kCount];
  const Lanes infinity = Vec::set1(__builtin_inff());
  for (int w = 0; w < kCount; ++w) {
    floor[w] = Vec::set1(sure[w]);
    best[w] = infinity;
  }
  for_each_vector(row, step, [&](int64_t, Lanes key, Lanes width) FT_INLINE_LAMBDA {
    const Lanes lower = Vec::subtract(key, width), upper = Vec::add(key, width);
    for (int w = 0; w < kCount; ++w)
      best[w] = Vec::smaller(Vec::choose(Vec::at_least(lower, floor[w]), upper, infinity), best[w]);
  });
  for (int w = 0; w < kCount; ++w) bounds[w] = smallest_lane(best[w]);
}

inline void smallest_above(const RowOfKeys& row, int64_t step, const float* sure, int count, float* bounds) {
  switch (count) {
    case 1:
      return smallest_above_each<1>(row, step, sure, bounds);
    case 2:
      return smallest_above_each<2>(row, step, sure, bounds);
    case 3:
      return smallest_above_each<3>(row, step, sure, bounds);
    default:
      return smallest_above_each<kWindows>(row, step, sure, bounds);
  }
}

inline float largest(const RowOfKeys& row) {
  const Lanes infinity = Vec::set1(__builtin_inff());
  Lanes best = infinity;  // of width - key, the smallest
  for_each_vector(row, 1, [&](int64_t, Lanes key, Lanes width) FT_INLINE_LAMBDA {
    const Lanes lower = Vec::subtract(key, width);
    best = Vec::smaller(Vec::choose(Vec::at_least(lower, lower), Vec::negate(lower), infinity), best);
  });
  return -smallest_lane(best);
}

template <int kCount, bool kBelow>
FT_INLINE int64_t collect_each(const RowOfKeys& row, const KeyWindow* windows, int32_t* found, int64_t* below) {
  Lanes floor[kCount], limit[kCount], counts[kCount];
  const Lanes one = Vec::set1(1.0f), zero = Vec::zero();
  for (int w = 0; w < kCount; ++w) {
    floor[w] = Vec::set1(windows[w].floor);
    limit[w] = Vec::set1(windows[w].limit);
    counts[w] = zero;  // in float32, exactly up to 2^24 vectors, of which a row has fewer
  }
  int64_t count = 0;
  for_each_vector(row, 1, [&](int64_t j, Lanes key, Lanes width) FT_INLINE_LAMBDA {
    const Lanes lower = Vec::subtract(key, width), upper = Vec::add(key, width);
    const Mask number = Vec::at_least(upper, Vec::set1(-__builtin_inff()));  // not of NaN, a column that is none
    Mask any = Vec::none();
    for (int w = 0; w < kCount; ++w) {
      const Mask reaches = Vec::at_least(upper, floor[w]);
      if (kBelow) counts[w] = Vec::add(counts[w], Vec::choose(Vec::except(number, reaches), one, zero));
      any = Vec::either(any, Vec::both(reaches, Vec::at_least(limit[w], lower)));
    }
    for (unsigned bits = Vec::bits(any); __builtin_expect(bits != 0, 0); bits &= bits - 1)
      found[count++] = static_cast<int32_t>(j + __builtin_ctz(bits));
  });
  for (int w = 0; kBelow && w < kCount; ++w) {
    float lanes[kLanes];
    Vec::store(lanes, counts[w]);
    below[w] = 0;
    for (const float lane : lanes) below[w] += static_cast<int64_t>(lane);
  }
  return count;
}

template <bool kBelow>
FT_INLINE int64_t collect_any(const RowOfKeys& row, const KeyWindow* windows, int count, int32_t* found,
                              int64_t* below) {
  switch (count) {
    case 1:
      return collect_each<1, kBelow>(row, windows, found, below);
    case 2:
      return collect_each<2, kBelow>(row, windows, found, below);
    case 3:
      return collect_each<3, kBelow>(row, windows, found, below);
    default:
      return collect_each<kWindows, kBelow>(row, windows, found, below);
  }
}

inline int64_t collect(const RowOfKeys& row, const KeyWindow* windows, int count, int32_t* found, int64_t* below) {
  return below == nullptr ? collect_any<false>(row, windows, count, found, below)
                          : collect_any<true>(row, windows, count, found, below);
}

static_assert(kTileRows % kHeight == 0, "whoever scans some rows and then the next begins at a tile");

}  // namespace fasttriplet::cpu::FT_TIER
