// Everything exact: scores of pairs, surveys of rows, packing and the gather of gradients, in float64. Sums run over
// eight fixed lanes (wide-inl.h), a score's over two chains of them, in a fixed order with nothing fused, so every
// instruction set gives the same bits. Compiled once per instruction set.

namespace fasttriplet::cpu::FT_TIER {

// One entry's term of a score.
template <typename Kind>
FT_INLINE Wide score_term(Wide x, Wide y, Wide x_factor, Wide y_factor) {
  if constexpr (Kind::kProduct) return x * y;
  if constexpr (Kind::kNormalised) {
    x = x * x_factor;
    y = y * y_factor;
  }
  const Wide difference = x - y;
  return difference * difference;
}

template <typename Kind>
FT_INLINE double finished_score(Wide terms, double x_factor, double y_factor) {
  const double total = sum(terms);
  if constexpr (Kind::kProduct) return -total;
  if constexpr (Kind::kRoot) return __builtin_sqrt(total);
  if constexpr (Kind::kNormalised) return x_factor == 0 || y_factor == 0 ? 1 : total / 2;
  return total;
}

template <typename Kind, typename T>
inline double score(const T* x, const T* y, int64_t d, double x_factor, double y_factor) {
  const Wide fx = splat(x_factor), fy = splat(y_factor);
  Wide even = zeros(), odd = zeros();  // two chains halve the wait on the adder
  int64_t k = 0;
  for (; k + 2 * kStep <= d; k += 2 * kStep) {
    even += score_term<Kind>(load_wide(x + k), load_wide(y + k), fx, fy);
    odd += score_term<Kind>(load_wide(x + k + kStep), load_wide(y + k + kStep), fx, fy);
  }
  if (k + kStep <= d) {
    even += score_term<Kind>(load_wide(x + k), load_wide(y + k), fx, fy);
    k += kStep;
  }
  if (k < d) odd += score_term<Kind>(load_tail(x + k, d - k), load_tail(y + k, d - k), fx, fy);
  return finished_score<Kind>(even + odd, x_factor, y_factor);
}

constexpr int64_t kWidened = 1024;  // entries of a row that are kept as float64: 8 KB of the first cache

template <typename Kind, typename T>
inline void scores(const Rows<T>& rows, const double* factors, int64_t row, const int32_t* others, int64_t count,
                   double* result) {
  const int64_t d = rows.d, whole = d / (2 * kStep) * (2 * kStep);
  const T* const own = rows(row);
  const double own_factor = Kind::kNormalised ? factors[row] : 1;
  if (d > kWidened || std::is_same_v<T, double>) {
    for (int64_t at = 0; at < count; ++at)
      result[at] = score<Kind>(own, rows(others[at]), d, own_factor, Kind::kNormalised ? factors[others[at]] : 1);
    return;
  }
  alignas(64) double widened[kWidened];
  const Wide one = splat(1.0);
  for (int64_t k = 0; k < d; k += kStep) {
    const Wide x = k + kStep <= d ? load_wide(own + k) : load_tail(own + k, d - k);
    store_wide(widened + k, Kind::kNormalised ? x * splat(own_factor) : x);
  }
  for (int64_t at = 0; at < count; ++at) {
    const T* const other = rows(others[at]);
    if (at + 2 < count) {  // rows lie anywhere
      const T* const later = rows(others[at + 2]);
      for (int64_t k = 0; k < d; k += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(later + k);
    }
    const double other_factor = Kind::kNormalised ? factors[others[at]] : 1;
    const Wide factor = splat(other_factor);
    Wide even = zeros(), odd = zeros();
    int64_t k = 0;
    for (; k < whole; k += 2 * kStep) {
      even += score_term<Kind>(load_wide(widened + k), load_wide(other + k), one, factor);
      odd += score_term<Kind>(load_wide(widened + k + kStep), load_wide(other + k + kStep), one, factor);
    }
    if (k + kStep <= d) {
      even += score_term<Kind>(load_wide(widened + k), load_wide(other + k), one, factor);
      k += kStep;
    }
    if (k < d) odd += score_term<Kind>(load_wide(widened + k), load_tail(other + k, d - k), one, factor);
    result[at] = finished_score<Kind>(even + odd, own_factor, other_factor);
  }
}

template <typename T>
inline void survey(const T* row, int64_t d, const double* weights, RowSurvey* result) {
  Wide largest = zeros(), square = zeros(), probe = zeros(), defect = zeros();
  const auto add = [&](Wide x, Wide w) FT_INLINE_LAMBDA {
    largest = larger(magnitude(x), largest);
    square += x * x;
    probe += x * w;
    if constexpr (std::is_same_v<T, double>) defect += x - x;  // zero for finite entries, NaN for others
  };
  int64_t k = 0;
  for (; k + kStep <= d; k += kStep) add(load_wide(row + k), load_wide(weights + k));
  if (k < d) add(load_tail(row + k, d - k), load_tail(weights + k, d - k));
  double most = 0;
  for (int64_t lane = 0; lane < kStep; ++lane) most = largest[lane] > most ? largest[lane] : most;
  const double total = sum(square);
  // Squares of float32 entries do not overflow in float64: their sum alone tells whether all are finite.
  const double finite = std::is_same_v<T, double> ? sum(defect) : total - total;
  *result = {most + finite, total, sum(probe)};
}

typedef uint32_t HalfWords __attribute__((vector_size(32)));  // eight bfloat16 in the upper halves

// The nearest, ties to even.
FT_INLINE HalfWords bfloat16_of(HalfWords bits) { return (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000; }

// The packed words of the eight entries from k on. Of two bfloat16 an entry those of the lower parts lie kLowerWords
// on.
constexpr int64_t kLowerWords = 16;
static_assert(kLayout.format != Format::kBfloat16x2 || kLayout.depth_step == 2 * kLowerWords);
FT_INLINE float* words_of(float* words, int64_t k) {
  if (kLayout.format != Format::kBfloat16x2) return words + k / kLayout.per_word();
  return words + k / (2 * kLowerWords) * (2 * kLowerWords) + k % (2 * kLowerWords) / 2;
}

FT_INLINE void pack_pairs(HalfWords halves, float* words) {
  typedef uint64_t Pairs __attribute__((vector_size(32)));
  typedef uint32_t Words __attribute__((vector_size(16)));
  const Pairs pairs = (Pairs)halves;  // the first entry of a pair is the lower: these CPUs are little-endian
  const Words packed = __builtin_convertvector(((pairs >> 32) & 0xffff0000) | ((pairs >> 16) & 0xffff), Words);
  __builtin_memcpy(words, &packed, sizeof packed);
}

// Eight entries as the screen multiplies them: left as they are, or rounded to bfloat16, to the sum of two or to
// integer multiples of `step`, and packed into 8 words, 4, or 2.
FT_INLINE void round_to_words(float* entries, float step, float* words) {
  typedef float Entries __attribute__((vector_size(32)));
  if constexpr (kLayout.format == Format::kFloat32) {
    __builtin_memcpy(words, entries, kStep * sizeof *entries);
  } else if constexpr (kLayout.fixed_point()) {
    using Integer = std::conditional_t<kLayout.format == Format::kInt8, int8_t, int16_t>;
    typedef Integer Integers __attribute__((vector_size(8 * sizeof(Integer))));
    typedef int32_t Wholes __attribute__((vector_size(32)));
    constexpr float kWhole = 0x1.8p23f;  // added to a number below 2^22 it leaves no place for a fraction
    Entries x;
    __builtin_memcpy(&x, entries, sizeof x);
    const Entries shifted = x * (1 / step) + kWhole;
    x = (shifted - kWhole) * step;
    __builtin_memcpy(entries, &x, sizeof x);
    const Integers packed = __builtin_convertvector((Wholes)shifted, Integers);  // the lower bits are the integer's
    __builtin_memcpy(words, &packed, sizeof packed);
  } else if constexpr (kLayout.format == Format::kBfloat16x2) {
    Entries x;
    __builtin_memcpy(&x, entries, sizeof x);
    const HalfWords upper = bfloat16_of((HalfWords)x), lower = bfloat16_of((HalfWords)(x - (Entries)upper));
    x = (Entries)upper + (Entries)lower;  // no number in between is rounded: all end where x ends, or before
    __builtin_memcpy(entries, &x, sizeof x);
    pack_pairs(upper, words);
    pack_pairs(lower, words + kLowerWords);
  } else {
    HalfWords bits;
    __builtin_memcpy(&bits, entries, sizeof bits);
    bits = bfloat16_of(bits);
    __builtin_memcpy(entries, &bits, sizeof bits);
    pack_pairs(bits, words);
  }
}

// What the entries of a row add up to while they are packed.
struct RowSums {
  double square, residual, centre_dot;  // |x|^2, |x - x^|^2, c.x
};

// `length` entries of row `source` from `begin` on, as words. `centre` is the row's, or null.
template <typename T>
FT_INLINE RowSums pack_entries(const PackTask<T>& task, int64_t source, const double* centre, int64_t begin,
                               int64_t length, float step, float* words) {
  const T* row = task.rows(source) + begin;
  const Wide factor = splat(task.factors ? task.factors[source] : 1.0), scale = splat(task.scale);
  Wide square = zeros(), residual = zeros(), centre_dot = zeros();
  for (int64_t k = 0; k < length; k += kStep) {
    const bool whole = k + kStep <= length;
    const Wide x = whole ? load_wide(row + k) : load_tail(row + k, length - k);
    Wide c = zeros();
    if (centre) c = whole ? load_wide(centre + begin + k) : load_tail(centre + begin + k, length - k);
    const Wide exact = (x * factor - c) * scale;
    float entries[kStep];
    store_wide(entries, exact);
    round_to_words(entries, step, words_of(words, k));
    const Wide rounded = load_wide(entries);
    square += exact * exact;
    residual += (exact - rounded) * (exact - rounded);
    centre_dot += exact * (c * scale);
  }
  return {sum(square), sum(residual), sum(centre_dot)};
}

// Likewise of a float32 row that is scaled only, several times as fast. x scale is a float32 number itself, and so is
// its distance to the rounded value but for a rounding; else they vanish beside kTiny. Returns |x - x^|^2, a little too
// large. |x|^2 is known from the survey, and there is no centre.
FT_INLINE double pack_plain_entries(const float* row, double scale, float step, int64_t length, float* words) {
  typedef float Entries __attribute__((vector_size(4 * kStep)));
  const float factor = static_cast<float>(scale);
  Entries residual = {};
  for (int64_t k = 0; k < length; k += kStep) {
    Entries x, rounded;
    if (k + kStep <= length) {  // no copy of a length known only here: it would keep x in memory, four times as slow
      __builtin_memcpy(&x, row + k, sizeof x);
    } else {
      float tail[kStep] = {};
      for (int64_t t = k; t < length; ++t) tail[t - k] = row[t];
      __builtin_memcpy(&x, tail, sizeof x);
    }
    x *= factor;
    rounded = x;
    round_to_words(reinterpret_cast<float*>(&rounded), step, words_of(words, k));
    if constexpr (kLayout.format != Format::kFloat32)
      residual += (x - rounded) * (x - rounded);  // float32 rounds nothing off
  }
  typedef float Half __attribute__((vector_size(2 * kStep)));
  Half halves[2];
  __builtin_memcpy(halves, &residual, sizeof residual);
  const Half four = halves[0] + halves[1];
  return ((four[0] + four[2]) + (four[1] + four[3])) * (1 + 0x1p-18);  // above the roundings of a chunk's sum
}

// The largest entry and the norm of a row before it is rounded. The survey has them, but for a centre; a row that is
// normalised has norm 1, also where its square leaves float64's range.
struct RowExtent {
  double largest, norm;
};

template <typename T>
FT_INLINE RowExtent row_extent(const PackTask<T>& task, int64_t source, const double* centre) {
  const double row_factor = task.factors ? task.factors[source] : 1.0, size = row_factor * task.scale;
  if (centre == nullptr)
    return {task.surveys[source].largest * size,
            task.factors ? task.scale : __builtin_sqrt(task.surveys[source].square) * size};
  const T* row = task.rows(source);
  const Wide factor = splat(row_factor), scale = splat(task.scale);
  Wide square = zeros(), most = zeros();
  for (int64_t k = 0; k < task.d; k += kStep) {
    const bool whole = k + kStep <= task.d;
    const Wide x = whole ? load_wide(row + k) : load_tail(row + k, task.d - k);
    const Wide c = whole ? load_wide(centre + k) : load_tail(centre + k, task.d - k);
    const Wide exact = (x * factor - c) * scale;
    square += exact * exact;
    most = larger(magnitude(exact), most);
  }
  double largest = 0;
  for (int64_t lane = 0; lane < kStep; ++lane) largest = most[lane] > largest ? most[lane] : largest;
  return {largest, __builtin_sqrt(sum(square))};
}

// One panel: (x factor - centre) scale, rounded to the tier's format, and the norms of its rows. Words and their order
// are those of the tier's tiles.
template <typename T>
inline void pack(const PackTask<T>& task, int64_t panel) {
  constexpr int64_t kChunk = 64;  // entries of a row at a time: 48 rows of them are 12 KB of the first cache
  constexpr int64_t kPerWord = kLayout.per_word(), kWords = kChunk / kPerWord;
  const bool plain = std::is_same_v<T, float> && task.factors == nullptr && task.centres == nullptr &&
                     task.scale > 0x1p-120 && task.scale < 0x1p120;  // a float32 number
  alignas(64) float words[kWidth][kWords];
  RowSums sums[kWidth] = {};
  const int64_t first = panel * kWidth, depth = kLayout.depth(task.d);
  const int64_t lanes = task.count - first < kWidth ? task.count - first : kWidth;
  if (plain)
    for (int64_t lane = 0; lane < lanes; ++lane)
      sums[lane].square = task.surveys[task.source[first + lane]].square * task.scale * task.scale;
  float steps[kWidth] = {};
  if constexpr (kLayout.fixed_point()) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const RowExtent extent = row_extent(task, task.source[first + lane], task.centre(first + lane));
      steps[lane] =
          kLayout.format == Format::kInt8 ? int8_step(extent.largest) : int16_step(extent.norm, extent.largest, task.d);
    }
    __builtin_memcpy(task.steps + first, steps, sizeof steps);
  }
  float* out = task.panels + panel * kLayout.panel_words(task.d);
  for (int64_t begin = 0; begin < task.d; begin += kChunk) {
    const int64_t length = task.d - begin < kChunk ? task.d - begin : kChunk;
    if (length < kChunk || lanes < kWidth) __builtin_memset(words, 0, sizeof words);  // what lies beside is zero
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t source = task.source[first + lane];
      if constexpr (std::is_same_v<T, float>)
        if (plain) {
          sums[lane].residual +=
              pack_plain_entries(task.rows(source) + begin, task.scale, steps[lane], length, words[lane]);
          continue;
        }
      const RowSums chunk =
          pack_entries(task, source, task.centre(first + lane), begin, length, steps[lane], words[lane]);
      sums[lane].square += chunk.square;
      sums[lane].residual += chunk.residual;
      sums[lane].centre_dot += chunk.centre_dot;
    }
    const int64_t word = begin / kPerWord;
    put_words(words[0], kWords, word, depth - word < kWords ? depth - word : kWords, depth, out);
  }
  finish_panel(out, depth, first, task.first_sums);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const double residual = __builtin_sqrt(sums[lane].residual);
    task.norms[first + lane] = {sums[lane].square / 2, __builtin_sqrt(sums[lane].square) + residual, residual,
                                sums[lane].centre_dot};
  }
}

// An edge's pull at one of its ends.
template <typename Kind>
FT_INLINE Wide pull_term(Wide own, Wide other, Wide weight) {
  return Kind::kProduct ? -weight * other : weight * (own - other);
}

// gradient = sum over edges of weight (x - y) for differences; (sum weight (u - v) - u sum weight distance) / |x| for
// cosine; -sum weight y for products.
template <typename Kind, typename T>
inline void gather(const Rows<T>& rows, const double* factors, int64_t target, const Edge* edges, int64_t count,
                   T* gradient) {
  const int64_t d = rows.d;
  if (count == 0) {  // zero, also of a row that is not finite but ignored
    for (int64_t k = 0; k < d; ++k) gradient[k] = 0;
    return;
  }
  const T* const own_row = rows(target);
  double shrink = 0;
  if constexpr (Kind::kNormalised)
    for (int64_t e = 0; e < count; ++e) shrink += edges[e].weight * edges[e].distance;
  const Wide own_factor = splat(Kind::kNormalised ? factors[target] : 1.0);
  const auto gradient_at = [&](int64_t k, auto&& load) FT_INLINE_LAMBDA {
    Wide own = load(own_row + k);
    if constexpr (Kind::kNormalised) own = own * own_factor;
    Wide total = zeros();
    for (int64_t e = 0; e < count; ++e) {
      Wide other = load(rows(edges[e].partner) + k);
      if constexpr (Kind::kNormalised) other = other * splat(factors[edges[e].partner]);
      total += pull_term<Kind>(own, other, splat(edges[e].weight));
    }
    return Kind::kNormalised ? (total - splat(shrink) * own) * own_factor : total;
  };
  int64_t k = 0;
  for (; k + kStep <= d; k += kStep)
    store_wide(gradient + k, gradient_at(k, [](const T* p) FT_INLINE_LAMBDA { return load_wide(p); }));
  if (k < d)
    store_tail(gradient + k, gradient_at(k, [&](const T* p) FT_INLINE_LAMBDA { return load_tail(p, d - k); }), d - k);
}

}  // namespace fasttriplet::cpu::FT_TIER
