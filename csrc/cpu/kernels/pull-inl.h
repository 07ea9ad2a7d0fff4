// What edges pull a row by, added up in float64 over any number of calls. The same bits in every tier: each entry has a
// sum of its own, in the order of the edges, and nothing is fused. Compiled once per instruction set.

namespace fasttriplet::cpu::FT_TIER {

constexpr int64_t kReady = 16;  // edges whose rows are looked up together, for every entry

// weight (x - y) of differences, of unit rows for cosine; -weight y of products.
template <typename Kind, typename T>
inline void pull(const Rows<T>& rows, const double* factors, int64_t target, const Pull* pulls, int64_t count,
                 double* sums) {
  struct Ready {
    const T* row;
    double weight, factor;
  };
  const T* const own_row = rows(target);
  const Wide own_factor = splat(Kind::kNormalised ? factors[target] : 1.0);
  Ready turns[2][kReady];
  const auto look_up = [&](int64_t first, Ready* ready) FT_INLINE_LAMBDA {
    const int64_t some = count - first < kReady ? count - first : kReady;
    for (int64_t e = 0; e < some; ++e) {
      const Pull& edge = pulls[first + e];
      ready[e] = {rows(edge.partner), edge.weight, Kind::kNormalised ? factors[edge.partner] : 1.0};
      if (ready[e].factor == 0) ready[e].weight = 0;  // whatever turns there, a row of norm zero is at distance 1
    }
    return some;
  };
  // kWides times eight entries from k on.
  const auto add_up = [&](auto wides, const Ready* ready, int64_t some, int64_t k, auto&& load, auto&& load_sums,
                          auto&& store_sums) FT_INLINE_LAMBDA {
    constexpr int kWides = decltype(wides)::value;
    Wide own[kWides], total[kWides];
    for (int c = 0; c < kWides; ++c) {
      own[c] = load(own_row + k + c * kStep);
      if constexpr (Kind::kNormalised) own[c] = own[c] * own_factor;
      total[c] = load_sums(sums + k + c * kStep);
    }
    for (int64_t e = 0; e < some; ++e) {
      const Wide weight = splat(ready[e].weight);
      for (int c = 0; c < kWides; ++c) {
        Wide other = load(ready[e].row + k + c * kStep);
        if constexpr (Kind::kNormalised) other = other * splat(ready[e].factor);
        total[c] += pull_term<Kind>(own[c], other, weight);
      }
    }
    for (int c = 0; c < kWides; ++c) store_sums(sums + k + c * kStep, total[c]);
  };
  int64_t some = look_up(0, turns[0]);
  for (int64_t first = 0, turn = 0; first < count; first += kReady, turn ^= 1) {
    const Ready *const ready = turns[turn], *const next = turns[turn ^ 1];
    const int64_t later = first + kReady < count ? look_up(first + kReady, turns[turn ^ 1]) : 0;
    int64_t k = 0;
    const auto whole = [](const auto* p) FT_INLINE_LAMBDA { return load_wide(p); };
    const auto store = [](double* p, Wide wide) FT_INLINE_LAMBDA { store_wide(p, wide); };
    for (; k + 2 * kStep <= rows.d; k += 2 * kStep) {
      add_up(std::integral_constant<int, 2>(), ready, some, k, whole, whole, store);
      for (int64_t e = 0; e < later; ++e) __builtin_prefetch(next[e].row + k);  // rows lie anywhere
    }
    for (; k + kStep <= rows.d; k += kStep)
      add_up(std::integral_constant<int, 1>(), ready, some, k, whole, whole, store);
    if (const int64_t rest = rows.d - k; rest > 0) {
      const auto part = [&](const auto* p) FT_INLINE_LAMBDA { return load_tail(p, rest); };
      const auto store_part = [&](double* p, Wide wide) FT_INLINE_LAMBDA { store_tail(p, wide, rest); };
      add_up(std::integral_constant<int, 1>(), ready, some, k, part, part, store_part);
    }
    some = later;
  }
}

}  // namespace fasttriplet::cpu::FT_TIER
