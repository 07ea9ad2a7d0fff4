// Hinge losses of an anchor with many positives: the keys up to which a negative is in an active triplet with each of
// them, and for a whole row of negatives the number of those keys that lie above each. A table over equal steps of the
// key gives that number at once where no such key is near. Compiled once per instruction set that screens in float32.

namespace fasttriplet::cpu::FT_TIER {

// With x = sqrt(2 key), a distance in units of the prepared rows, a root's threshold has the key (x + m)^2 / 2; others
// are key + m. Ends of an interval go to ends of an interval. With r = x + |m| all roundings on the way are below
// 4 u r^2, of a root, and 4 u (|key| + |m|); twice as much is allowed.
template <bool kRoot>
inline void hinge_limits(const HingeLimits& task) {
  constexpr float kRoundings = 8 * 0x1p-24f;
  const Lanes zero = Vec::zero(), margin = Vec::set1(task.margin), half = Vec::set1(0.5f), two = Vec::set1(2.0f);
  const Lanes size = Vec::set1(task.margin < 0 ? -task.margin : task.margin), width = Vec::set1(task.width);
  const Lanes never = Vec::set1(-__builtin_inff()), rounding = Vec::set1(kRoundings);
  for (int64_t p = 0; p < task.count; p += kLanes) {
    const Lanes key = Vec::load(task.keys + p), own = Vec::add(Vec::load(task.widths + p), width);
    Lanes least = Vec::subtract(key, own), most = Vec::add(key, own), slack;
    if constexpr (kRoot) {
      const Lanes from = Vec::root(Vec::larger(least, zero) * two), to = Vec::root(Vec::larger(most, zero) * two);
      const Lanes low = Vec::add(from, margin), high = Vec::add(to, margin), reach = Vec::add(to, size);
      slack = reach * reach * rounding;
      least = Vec::choose(Vec::at_least(zero, low), never, low * low * half);
      most = Vec::choose(Vec::at_least(zero, Vec::add(high, reach * rounding)), never, high * high * half);
    } else {
      slack = Vec::larger(key, Vec::negate(key));
      slack = Vec::add(slack, size) * rounding;
      least = Vec::add(least, margin);
      most = Vec::add(most, margin);
    }
    slack = Vec::add(slack, Vec::set1(task.slack));
    Vec::store(task.surely + p, Vec::subtract(Vec::subtract(least, slack), width));
    Vec::store(task.perhaps + p, Vec::add(Vec::add(most, slack), width));
    Lanes distance = key * Vec::set1(task.key_scale);
    if constexpr (kRoot) distance = Vec::root(Vec::larger(distance, zero));
    Vec::store(task.distances + p, distance);
  }
}

template <bool kRoot>
inline void hinge_counts(HingeCounts& task) {
  typedef int32_t Numbers __attribute__((vector_size(sizeof(Lanes))));
  const Lanes zero = Vec::zero(), one = Vec::set1(1.0f), scale = Vec::set1(task.key_scale);
  const Lanes row_term = Vec::set1(task.term), close = Vec::set1(task.close), wide = Vec::set1(task.wide);
  const Lanes base = Vec::set1(task.base), inverse = Vec::set1(task.inverse), last = Vec::set1(task.last_slot);
  const Lanes weight_scale = Vec::set1(task.weight_scale);
  FlushedSum total;
  int64_t until_flush = kFlush;
  for (int64_t j = 0; j < task.stride; j += kLanes) {
    const Lanes key = Vec::load(task.keys + j);
    const Mask valid = Vec::at_least(key, key);
    Mask unsure = Vec::either(Vec::at_least((row_term + Vec::load(task.terms + j)) * close, key),
                              Vec::at_least(Vec::load(task.widths + j), wide));
    Lanes slot = Vec::smaller(Vec::larger((key - base) * inverse, one), last);
    slot = Vec::choose(Vec::except(valid, unsure), slot, zero);
    int32_t slots[kLanes], found[kLanes];
    const Numbers whole = __builtin_convertvector(slot, Numbers);
    __builtin_memcpy(slots, &whole, sizeof slots);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int32_t entry = task.table[slots[lane]];
      found[lane] = entry;
      ++task.histogram[2 * (entry > 0 ? entry : 0) + (lane & 1)];
    }
    Numbers counts;
    __builtin_memcpy(&counts, found, sizeof counts);
    counts -= 1;
    const Mask sure = Vec::at_least(__builtin_convertvector(counts, Lanes), zero);
    unsure = Vec::except(valid, sure);
    counts = counts & (counts > 0);
    Numbers sums;
    __builtin_memcpy(&sums, task.column_counts + j, sizeof sums);
    sums += counts;
    __builtin_memcpy(task.column_counts + j, &sums, sizeof sums);
    for (unsigned bits = Vec::bits(unsure); __builtin_expect(bits != 0, 0); bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      task.unsure[task.unsure_count++] = {static_cast<int32_t>(j + lane), -found[lane] - 1, task.keys[j + lane]};
    }
    const Lanes times = __builtin_convertvector(counts, Lanes);
    Lanes distance = key * scale;
    if constexpr (kRoot) distance = Vec::root(Vec::larger(distance, zero));
    distance = Vec::choose(sure, distance, one);
    total.lanes = total.lanes + times * distance;
    Lanes weight = times * weight_scale;
    if constexpr (kRoot) weight = weight / distance;
    Vec::store(task.keys + j, weight);
    if (--until_flush == 0) {
      total.flush();
      until_flush = kFlush;
    }
  }
  total.flush();
  task.total = total.total;
}

}  // namespace fasttriplet::cpu::FT_TIER
