// What edges pull a row by, added up in float64 over any number of calls. The same bits in every tier: each entry has a
// sum of its own, in the order of the edges, and nothing is fused. Compiled once per instruction set.

namespace fasttriplet::cpu::FT_TIER {

// weight (x - y) of differences, of unit rows for cosine; -weight y of products. Eight entries at a time.
template <typename Kind, typename T>
inline void pull(const Rows<T>& rows, const double* factors, int64_t target, const Pull* pulls, int64_t count,
                 double* sums) {
  const T* const own_row = rows(target);
  const Wide own_factor = splat(Kind::kNormalised ? factors[target] : 1.0);
  const auto total_at = [&](int64_t k, auto&& load) FT_INLINE_LAMBDA {
    Wide own = load(own_row + k);
    if constexpr (Kind::kNormalised) own = own * own_factor;
    Wide total = zeros();
    for (int64_t e = 0; e < count; ++e) {
      Wide other = load(rows(pulls[e].partner) + k);
      if constexpr (Kind::kNormalised) other = other * splat(factors[pulls[e].partner]);
      const Wide weight = splat(pulls[e].weight);
      total += Kind::kProduct ? -weight * other : weight * (own - other);
    }
    return total;
  };
  int64_t k = 0;
  for (; k + kStep <= rows.d; k += kStep) {
    const Wide total = total_at(k, [](const T* p) FT_INLINE_LAMBDA { return load_wide(p); });
    store_wide(sums + k, load_wide(sums + k) + total);
  }
  const int64_t rest = rows.d - k;
  if (rest == 0) return;
  const Wide total = total_at(k, [&](const T* p) FT_INLINE_LAMBDA { return load_tail(p, rest); });
  store_tail(sums + k, load_tail(sums + k, rest) + total, rest);
}

constexpr int64_t kNarrowEdges = 16;  // summed in float32 before their sum goes to float64

// Some edges, ready for a look at every entry of their rows.
struct NarrowEdges {
  const float* rows[kNarrowEdges];
  float weights[kNarrowEdges];
  int64_t count;
};

template <int kVectors>
FT_INLINE void narrow_block(const NarrowEdges& edges, const NarrowEdges& next, const float* own_row, int64_t k,
                            double* sums) {
  Lanes own[kVectors], total[kVectors];
  for (int c = 0; c < kVectors; ++c) {
    own[c] = Vec::load(own_row + k + c * kLanes);
    total[c] = Vec::zero();
  }
  for (int64_t e = 0; e < edges.count; ++e) {
    const Lanes weight = Vec::set1(edges.weights[e]);
    for (int c = 0; c < kVectors; ++c)
      total[c] = total[c] + weight * (own[c] - Vec::load(edges.rows[e] + k + c * kLanes));
  }
  constexpr int kVectorsPerLine = 16 / kLanes;  // rows lie anywhere: the next edges' are on their way meanwhile
  for (int64_t e = 0; e < next.count; ++e)
    for (int c = 0; c < kVectors; c += kVectorsPerLine) __builtin_prefetch(next.rows[e] + k + c * kLanes);
  for (int c = 0; c < kVectors; ++c) {
    float values[kLanes];
    Vec::store(values, total[c]);
    for (int lane = 0; lane < kLanes; lane += Wide::kPartLanes) {
      Wide::Part sum;
      double* const at = sums + k + c * kLanes + lane;
      __builtin_memcpy(&sum, at, sizeof sum);
      sum += Vec::widen(values + lane);
      __builtin_memcpy(at, &sum, sizeof sum);
    }
  }
}

// Differences of float32 numbers and their products with a weight, each rounded once, err by less than 2^-22 of
// themselves; a sum of kNarrowEdges by a few times that.
inline void narrow_pull(const Rows<float>& rows, const double*, int64_t target, const Pull* pulls, int64_t count,
                        double* sums) {
  constexpr int kMany = 4;
  const float* const own = rows(target);
  const auto some = [&](int64_t first, NarrowEdges& edges) FT_INLINE_LAMBDA {
    edges.count = count - first < kNarrowEdges ? count - first : kNarrowEdges;
    for (int64_t e = 0; e < edges.count; ++e) {
      edges.rows[e] = rows(pulls[first + e].partner);
      edges.weights[e] = static_cast<float>(pulls[first + e].weight);
    }
  };
  NarrowEdges turns[2];
  some(0, turns[0]);
  for (int64_t first = 0, turn = 0; first < count; first += kNarrowEdges, turn ^= 1) {
    const NarrowEdges& edges = turns[turn];
    NarrowEdges& next = turns[turn ^ 1];
    next.count = 0;
    if (first + kNarrowEdges < count) some(first + kNarrowEdges, next);
    int64_t k = 0;
    for (; k + kMany * kLanes <= rows.d; k += kMany * kLanes) narrow_block<kMany>(edges, next, own, k, sums);
    for (; k + kLanes <= rows.d; k += kLanes) narrow_block<1>(edges, next, own, k, sums);
    for (; k < rows.d; ++k) {
      float total = 0;
      for (int64_t e = 0; e < edges.count; ++e) total += edges.weights[e] * (own[k] - edges.rows[e][k]);
      sums[k] += static_cast<double>(total);
    }
  }
}

template <typename T>
constexpr typename RowKernels<T>::PullUp narrow_pull_of() {
  if constexpr (std::is_same_v<T, float>)
    return narrow_pull;
  else
    return nullptr;
}

}  // namespace fasttriplet::cpu::FT_TIER
