// Eight float64 lanes, the ones that every exact sum runs over in every tier, as one to four native vectors. Left to
// the compiler, vectors wider than the machine's are spilled at every step (gcc 12: four times slower under AVX2).
// Compiled once per instruction set.

namespace fasttriplet::cpu::FT_TIER {

constexpr int64_t kStep = 8;

struct Wide {
  using Part = Vec::Part;
  static constexpr int kPartLanes = sizeof(Part) / sizeof(double);
  static constexpr int kParts = kStep / kPartLanes;
  Part part[kParts];

  FT_INLINE double operator[](int lane) const { return part[lane / kPartLanes][lane % kPartLanes]; }
};

template <typename F>
FT_INLINE Wide by_part(F&& f) {
  Wide result;
  for (int p = 0; p < Wide::kParts; ++p) result.part[p] = f(p);
  return result;
}

FT_INLINE Wide operator+(Wide a, Wide b) {
  return by_part([&](int p) FT_INLINE_LAMBDA { return a.part[p] + b.part[p]; });
}
FT_INLINE Wide operator-(Wide a, Wide b) {
  return by_part([&](int p) FT_INLINE_LAMBDA { return a.part[p] - b.part[p]; });
}
FT_INLINE Wide operator*(Wide a, Wide b) {
  return by_part([&](int p) FT_INLINE_LAMBDA { return a.part[p] * b.part[p]; });
}
FT_INLINE Wide operator-(Wide a) {
  return by_part([&](int p) FT_INLINE_LAMBDA { return -a.part[p]; });
}
FT_INLINE Wide& operator+=(Wide& a, Wide b) { return a = a + b; }

FT_INLINE Wide splat(double x) {
  return by_part([&](int) FT_INLINE_LAMBDA { return x - Wide::Part{}; });
}
FT_INLINE Wide zeros() {
  return by_part([](int) FT_INLINE_LAMBDA { return Wide::Part{}; });
}
FT_INLINE Wide magnitude(Wide a) {
  typedef int64_t Bits __attribute__((vector_size(sizeof(Wide::Part))));
  return by_part([&](int p) FT_INLINE_LAMBDA { return (Wide::Part)((Bits)a.part[p] & INT64_MAX); });
}
// The second where either is NaN.
FT_INLINE Wide larger(Wide a, Wide b) {
  return by_part([&](int p) FT_INLINE_LAMBDA { return a.part[p] > b.part[p] ? a.part[p] : b.part[p]; });
}

FT_INLINE Wide load_wide(const float* from) {
  return by_part([&](int p) FT_INLINE_LAMBDA { return Vec::widen(from + p * Wide::kPartLanes); });
}
FT_INLINE Wide load_wide(const double* from) {
  return by_part([&](int p) FT_INLINE_LAMBDA {
    Wide::Part part;
    __builtin_memcpy(&part, from + p * Wide::kPartLanes, sizeof part);
    return part;
  });
}

// The first `count` of eight entries, zeros behind them.
template <typename T>
FT_INLINE Wide load_tail(const T* from, int64_t count) {
  T buffer[kStep] = {};
  for (int64_t k = 0; k < count; ++k) buffer[k] = from[k];
  return load_wide(buffer);
}

FT_INLINE void store_wide(float* to, Wide wide) {
  for (int p = 0; p < Wide::kParts; ++p) Vec::narrow(to + p * Wide::kPartLanes, wide.part[p]);
}
FT_INLINE void store_wide(double* to, Wide wide) {
  for (int p = 0; p < Wide::kParts; ++p)
    __builtin_memcpy(to + p * Wide::kPartLanes, &wide.part[p], sizeof wide.part[p]);
}

template <typename T>
FT_INLINE void store_tail(T* to, Wide wide, int64_t count) {
  T buffer[kStep];
  store_wide(buffer, wide);
  for (int64_t k = 0; k < count; ++k) to[k] = buffer[k];
}

FT_INLINE double sum(Wide a) { return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])); }

}  // namespace fasttriplet::cpu::FT_TIER
