// Where the keys of an anchor's row lie among its thresholds, and the nearest key of each place. Needs scan-inl.h.
// Compiled once per instruction set.

namespace fasttriplet::cpu::FT_TIER {

FT_INLINE int32_t thresholds_below(const ThresholdSteps& thresholds, int32_t step, float lower) {
  const float* const sure = thresholds.sure;
  int32_t from = thresholds.begin[step], to = thresholds.begin[step + 1];
  if (__builtin_expect(to - from <= ThresholdSteps::kUsual, 1)) {
    static_assert(ThresholdSteps::kUsual == 2);
    return from + (sure[from] <= lower) + (sure[from + 1] <= lower);  // none of a later step is
  }
  while (from < to) {
    const int32_t middle = from + (to - from) / 2;
    if (sure[middle] <= lower)
      from = middle + 1;
    else
      to = middle;
  }
  return from;
}

// The keys in the window and in steps that are wanted, with the step of each in place of what is below it.
template <bool kAllSteps>
FT_INLINE int64_t keys_within(const RowOfKeys& row, int64_t row_step, const KeyWindow& window,
                              const ThresholdSteps& thresholds, const PlacedKeys& placed) {
  typedef int32_t Numbers __attribute__((vector_size(sizeof(Lanes))));
  constexpr unsigned kAll = (1u << kLanes) - 1;
  const Lanes floor = Vec::set1(window.floor), limit = Vec::set1(window.limit), zero = Vec::zero();
  const Lanes low = Vec::set1(thresholds.low), per_unit = Vec::set1(thresholds.per_unit);
  const Lanes last = Vec::set1(thresholds.last);
  int64_t count = 0;
  for_each_vector(row, row_step, [&](int64_t j, Lanes key, Lanes width) FT_INLINE_LAMBDA {
    const Lanes lower = Vec::subtract(key, width), upper = Vec::add(key, width);
    unsigned within = Vec::bits(Vec::both(Vec::at_least(upper, floor), Vec::at_least(limit, lower)));
    if (within == 0) return;
    const Lanes place = Vec::subtract(lower, low) * per_unit;
    const Numbers steps =
        __builtin_convertvector(Vec::choose(Vec::at_least(place, zero), Vec::smaller(place, last), zero), Numbers);
    if (!kAllSteps) {
      int32_t step[kLanes];
      __builtin_memcpy(step, &steps, sizeof step);
      unsigned wanted = 0;
      for (int lane = 0; lane < kLanes; ++lane) wanted |= unsigned{thresholds.wanted[step[lane]]} << lane;
      within &= wanted;
    }
    if (within == kAll) {
      Vec::store(placed.lower + count, lower);
      Vec::store(placed.upper + count, upper);
      __builtin_memcpy(placed.below + count, &steps, sizeof steps);
      for (int lane = 0; lane < kLanes; ++lane) placed.columns[count + lane] = static_cast<int32_t>(j) + lane;
      count += kLanes;
      return;
    }
    int32_t step[kLanes];
    float lowers[kLanes], uppers[kLanes];
    __builtin_memcpy(step, &steps, sizeof step);
    Vec::store(lowers, lower);
    Vec::store(uppers, upper);
    for (unsigned bits = within; bits != 0; bits &= bits - 1, ++count) {
      const int lane = __builtin_ctz(bits);
      placed.lower[count] = lowers[lane];
      placed.upper[count] = uppers[lane];
      placed.below[count] = step[lane];
      placed.columns[count] = static_cast<int32_t>(j) + lane;
    }
  });
  return count;
}

inline int64_t place(const RowOfKeys& row, int64_t row_step, const KeyWindow& window, const ThresholdSteps& thresholds,
                     const PlacedKeys& placed) {
  const int64_t count = thresholds.wanted == nullptr ? keys_within<true>(row, row_step, window, thresholds, placed)
                                                     : keys_within<false>(row, row_step, window, thresholds, placed);
  int32_t* const __restrict__ places = placed.below;
  float* const __restrict__ nearest = placed.nearest;
  for (int64_t k = 0; k < count; ++k) {
    const int32_t below = thresholds_below(thresholds, places[k], placed.lower[k]);
    places[k] = below;
    nearest[below] = placed.upper[k] < nearest[below] ? placed.upper[k] : nearest[below];
  }
  return count;
}

}  // namespace fasttriplet::cpu::FT_TIER
