// Sums over all negatives or all positives of a row, a whole row of keys at a time: the slope of every pair, and the
// product of the slopes with the rows. Neither is ever [N, N]. Compiled once per instruction set that screens in
// float32.

namespace fasttriplet::cpu::FT_TIER {

constexpr int64_t kFlush = 256;  // vectors summed in float32 before their sums go to float64

struct FlushedSum {
  double total = 0;
  Lanes lanes;

  FT_INLINE FlushedSum() : lanes(Vec::zero()) {}  // an implicit one would be compiled for the baseline

  FT_INLINE void flush() {
    float values[kLanes];
    Vec::store(values, lanes);
    for (const float value : values) total += static_cast<double>(value);
    lanes = Vec::zero();
  }
};

FT_INLINE Lanes power_of_two(Lanes n) {
  typedef int32_t Bits __attribute__((vector_size(sizeof(Lanes))));
  return (Lanes)((__builtin_convertvector(n, Bits) + 127) << 23);
}

// exp of what is not above zero: 2^n times a polynomial in the rest, |rest| <= ln 2 / 2, of degree 6, relative error
// 2^-22.
FT_INLINE Lanes exp_of_negative(Lanes x) {
  x = Vec::larger(x, Vec::set1(-87.0f));
  const Lanes whole = Vec::set1(12582912.0f);  // 1.5 * 2^23: a sum with it has no place for a fraction
  const Lanes n = Vec::multiply_add(x, Vec::set1(1.44269504f), whole) - whole;
  const Lanes high = Vec::multiply_add(n, Vec::set1(-0.693359375f), x);  // exact: ln 2 in two parts, the first short
  const Lanes rest = Vec::multiply_add(n, Vec::set1(2.12194440e-4f), high);
  Lanes sum = Vec::set1(1.0f / 720);
  for (const float coefficient : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    sum = Vec::multiply_add(sum, rest, Vec::set1(coefficient));
  return sum * power_of_two(n);
}

// Lanes of pairs that are counted, for one threshold: those surely below it, and those perhaps below it.
struct Below {
  Mask surely, perhaps;
};
FT_INLINE Below below(Lanes key, Lanes width, Lanes surely_limit, Lanes perhaps_limit) {
  return {Vec::at_least(surely_limit, key + width), Vec::at_least(perhaps_limit, key - width)};
}

// How many thresholds of the row and of the column, as anchors, a pair's distance is below; what cannot be told goes to
// `unsure`.
FT_INLINE Lanes hinge_slopes(const DenseTask& task, DenseRow& row, int64_t j, Lanes key, Lanes distance, Mask& unsure,
                             FlushedSum& of_row, FlushedSum& of_columns) {
  const Lanes one = Vec::set1(1.0f);
  Lanes mine = Vec::zero(), theirs = Vec::zero();
  const Lanes column_width = Vec::load(task.widths + j);
  for (int64_t k = 0; k < row.thresholds; ++k) {
    const Below found = below(key, column_width, Vec::set1(row.surely[k]), Vec::set1(row.perhaps[k]));
    unsure = Vec::either(unsure, Vec::differ(found.surely, found.perhaps));
    mine = mine + Vec::choose(found.perhaps, one, Vec::zero());
    row.counts[k] += __builtin_popcount(Vec::bits(found.perhaps));
  }
  const Lanes row_width = Vec::set1(row.width);
  for (int64_t k = 0; k < task.column_thresholds; ++k) {
    const int64_t at = k * task.stride + j;
    const Below found = below(key, row_width, Vec::load(task.surely + at), Vec::load(task.perhaps + at));
    unsure = Vec::either(unsure, Vec::differ(found.surely, found.perhaps));
    theirs = theirs + Vec::choose(found.perhaps, one, Vec::zero());
  }
  for (unsigned bits = Vec::bits(unsure); __builtin_expect(bits != 0, 0);
       bits &= bits - 1) {  // out of the counts again
    const int64_t column = j + __builtin_ctz(bits);
    for (int64_t k = 0; k < row.thresholds; ++k)
      row.counts[k] -= row.perhaps[k] >= row.keys[column] - task.widths[column];
  }
  const Lanes zero = Vec::zero();
  mine = Vec::choose(unsure, zero, mine);
  theirs = Vec::choose(unsure, zero, theirs);
  of_row.lanes = of_row.lanes + mine * distance;
  of_columns.lanes = of_columns.lanes + theirs;
  return Vec::negate(mine * Vec::set1(row.upstream) + theirs * Vec::load(task.upstreams + j));
}

// log(1 + exp(d_ap - d)) and its slope for one positive.
FT_INLINE Lanes softplus_slope(Lanes difference, Lanes* value) {
  const Lanes zero = Vec::zero(), one = Vec::set1(1.0f);
  const Mask above = Vec::at_least(difference, zero);
  const Lanes decay = exp_of_negative(Vec::choose(above, Vec::negate(difference), difference));
  if (value != nullptr) {
    // log1p(decay), 0 <= decay <= 1: 2 atanh(s), s = decay / (2 + decay) <= 1/3; the series' rest is below 2^-24
    const Lanes s = decay / (Vec::set1(2.0f) + decay), square = s * s;
    Lanes sum = Vec::set1(2.0f / 15);
    for (const float coefficient : {2.0f / 13, 2.0f / 11, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3, 2.0f})
      sum = sum * square + Vec::set1(coefficient);
    *value = *value + (Vec::choose(above, difference, zero) + s * sum);
  }
  return Vec::choose(above, one, decay) / (one + decay);
}

FT_INLINE Lanes soft_slopes(const DenseTask& task, DenseRow& row, int64_t j, Lanes distance, Mask valid,
                            FlushedSum& of_row) {
  const Lanes zero = Vec::zero();
  Lanes mine = zero, theirs = zero, value = zero;
  for (int64_t k = 0; k < row.thresholds; ++k) {
    const Lanes slope = softplus_slope(Vec::set1(row.perhaps[k]) - distance, &value);
    mine = mine + slope;
    float lanes[kLanes];
    Vec::store(lanes, Vec::choose(valid, slope, zero));
    float sum = 0;
    for (const float lane : lanes) sum += lane;
    row.slopes[k] += static_cast<double>(sum);
  }
  for (int64_t k = 0; k < task.column_thresholds; ++k) {
    const Lanes positive = Vec::load(task.perhaps + k * task.stride + j);
    const Lanes slope = softplus_slope(positive - distance, nullptr);
    theirs = theirs + Vec::choose(Vec::at_least(positive, Vec::set1(-__FLT_MAX__)), slope, zero);
  }
  of_row.lanes = of_row.lanes + Vec::choose(valid, value, zero);
  return Vec::negate(mine * Vec::set1(row.upstream) + theirs * Vec::load(task.upstreams + j));
}

// Slopes of sum w d, w = softmax(s), s = sign d: w (1 + (s - sum w s)). Everything is less the pivot: distances may be
// far larger than they differ by, and near it the difference is exact.
FT_INLINE Lanes weighted_slopes(const DenseTask& task, const DenseRow& row, int64_t j, Lanes distance) {
  const Lanes one = Vec::set1(1.0f), zero = Vec::zero(), s = distance * Vec::set1(task.sign);
  const auto slope = [&](Lanes pivot, Lanes log_total, Lanes mean) FT_INLINE_LAMBDA {
    const Lanes above = s - pivot, weight = exp_of_negative(Vec::smaller(above - log_total, zero));
    return weight * (one + (above - mean));
  };
  Lanes total = zero;
  if (row.upstream != 0)
    total = Vec::set1(row.upstream) * slope(Vec::set1(row.pivot), Vec::set1(row.log_total), Vec::set1(row.mean));
  if (task.column_thresholds == 0) return total;
  const Lanes pivot = Vec::load(task.surely + task.stride + j);
  const Lanes theirs = slope(pivot, Vec::load(task.surely + j), Vec::load(task.perhaps + j));
  return total + Vec::load(task.upstreams + j) * theirs;
}

template <DenseKind kKind, bool kRoot>
inline void dense_row(const DenseTask& task, DenseRow& row) {
  const Lanes zero = Vec::zero(), scale = Vec::set1(task.key_scale);
  FlushedSum of_row, of_columns, weights, slope_distance;
  const auto flush = [&]() FT_INLINE_LAMBDA {
    of_row.flush();
    of_columns.flush();
    weights.flush();
    slope_distance.flush();
  };
  const Lanes row_term = Vec::set1(row.term), close = Vec::set1(task.close);
  Lanes largest_key = Vec::set1(-__builtin_inff());
  int64_t until_flush = kFlush;
  for (int64_t j = row.begin; j < row.end; j += kLanes) {
    const Lanes key = Vec::load(row.keys + j);
    const Mask valid = Vec::at_least(key, key);
    if (Vec::bits(valid) == 0) {  // amid a large class
      Vec::store(row.keys + j, zero);
      continue;
    }
    // Too close for its terms' difference: its distance would have few digits, and so would its slope.
    Mask unsure = Vec::both(valid, Vec::at_least((row_term + Vec::load(task.terms + j)) * close, key));
    Lanes distance = key * scale;
    if constexpr (kRoot) distance = Vec::root(Vec::larger(distance, zero));
    distance = Vec::choose(valid, distance, zero);
    Lanes slopes;
    if constexpr (kKind == DenseKind::kHinge) {
      slopes = hinge_slopes(task, row, j, key, distance, unsure, of_row, of_columns);
    } else {
      const Mask kept = Vec::except(valid, unsure);
      if constexpr (kKind == DenseKind::kSoftplus) {
        slopes = soft_slopes(task, row, j, distance, kept, of_row);
        largest_key = Vec::larger(key, largest_key);  // a NaN leaves it
      } else {
        slopes = weighted_slopes(task, row, j, distance);
      }
    }
    for (unsigned bits = Vec::bits(unsure); __builtin_expect(bits != 0, 0); bits &= bits - 1)
      row.unsure[row.unsure_count++] = static_cast<int32_t>(j + __builtin_ctz(bits));
    const Mask kept = Vec::except(valid, unsure);
    Lanes weight =
        kRoot ? slopes / Vec::choose(kept, distance, Vec::set1(1.0f)) : slopes * Vec::set1(task.weight_scale);
    weight = Vec::choose(kept, weight, zero);
    Vec::store(row.keys + j, weight);
    weights.lanes = weights.lanes + weight;
    slope_distance.lanes = slope_distance.lanes + weight * distance;
    if (--until_flush == 0) {
      flush();
      until_flush = kFlush;
    }
  }
  flush();
  row.own_total = of_row.total;
  row.others_total = of_columns.total;
  row.weight_total = weights.total;
  row.shrink = slope_distance.total;
  if constexpr (kKind == DenseKind::kSoftplus) {
    float keys[kLanes];
    Vec::store(keys, largest_key);
    row.largest_key = keys[0];
    for (const float key : keys) row.largest_key = key > row.largest_key ? key : row.largest_key;
  }
}

// What softmax(s) of a row needs, s = sign d: the largest s, sum exp(s - largest), and that sum with each term times s
// - largest. What is too close goes to `unsure`.
template <bool kRoot>
inline void softmax_row(const DenseTask& task, DenseRow& row) {
  const Lanes zero = Vec::zero(), scale = Vec::set1(task.key_scale), sign = Vec::set1(task.sign);
  const Lanes row_term = Vec::set1(row.term), close = Vec::set1(task.close), none = Vec::set1(-__builtin_inff());
  Lanes largest = none;
  for (int64_t j = row.begin; j < row.end; j += kLanes) {
    const Lanes key = Vec::load(row.keys + j);
    const Mask valid = Vec::at_least(key, key);
    if (Vec::bits(valid) == 0) {  // amid a large class
      Vec::store(row.keys + j, none);
      continue;
    }
    const Mask unsure = Vec::both(valid, Vec::at_least((row_term + Vec::load(task.terms + j)) * close, key));
    for (unsigned bits = Vec::bits(unsure); __builtin_expect(bits != 0, 0); bits &= bits - 1)
      row.unsure[row.unsure_count++] = static_cast<int32_t>(j + __builtin_ctz(bits));
    Lanes distance = key * scale;
    if constexpr (kRoot) distance = Vec::root(Vec::larger(distance, zero));
    const Lanes s = Vec::choose(Vec::except(valid, unsure), distance * sign, none);
    Vec::store(row.keys + j, s);
    largest = Vec::larger(s, largest);
  }
  float most = -__builtin_inff(), lanes[kLanes];
  Vec::store(lanes, largest);
  for (const float lane : lanes) most = lane > most ? lane : most;
  row.largest = most;
  FlushedSum total, moment;
  if (most > -__builtin_inff()) {
    int64_t until_flush = kFlush;
    for (int64_t j = row.begin; j < row.end; j += kLanes) {
      const Lanes s = Vec::load(row.keys + j);
      const Mask kept = Vec::at_least(s, Vec::set1(-__FLT_MAX__));
      if (Vec::bits(kept) == 0) continue;
      const Lanes below = Vec::choose(kept, s - Vec::set1(most), zero);
      const Lanes weight = Vec::choose(kept, exp_of_negative(below), zero);
      total.lanes = total.lanes + weight;
      moment.lanes = moment.lanes + weight * below;
      if (--until_flush == 0) {
        total.flush();
        moment.flush();
        until_flush = kFlush;
      }
    }
  }
  total.flush();
  moment.flush();
  row.own_total = total.total;
  row.others_total = moment.total;
}

}  // namespace fasttriplet::cpu::FT_TIER
