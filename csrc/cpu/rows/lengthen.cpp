#include "cpu/rows/lengthen.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace fasttriplet::cpu {
namespace {

// Of 1 / |x|: up to there half of T's exponents are left to slopes and to what they add up to.
template <typename T>
constexpr double kLargestFactor = std::is_same_v<T, float> ? 0x1p64 : 0x1p512;

template <typename T>
void scale_by_power(const T* values, int64_t count, int exponent, T* scaled) {
  for (int64_t k = 0; k < count; ++k) scaled[k] = static_cast<T>(std::scalbn(static_cast<double>(values[k]), exponent));
}

}  // namespace

template <typename T>
bool Lengthened<T>::wanted(const Survey& survey) {
  return std::any_of(survey.factors.begin(), survey.factors.end(),
                     [](double factor) { return factor > kLargestFactor<T>; });
}

template <typename T>
Lengthened<T>::Lengthened(const Batch<T>& batch, const Survey& survey)
    : rows_(batch.n * batch.d),
      exponents_(batch.n),
      batch_{rows_.data(),   batch.n,    batch.d,
             batch.distance, batch.tier, batch.references == nullptr ? nullptr : rows_.data() + batch.split * batch.d,
             batch.split} {
  for (int64_t i = 0; i < batch.n; ++i) {
    if (survey.factors[i] > kLargestFactor<T>) exponents_[i] = std::ilogb(survey.factors[i]);
    scale_by_power(batch.row(i), batch.d, exponents_[i], rows_.data() + i * batch.d);
  }
}

template <typename T>
void Lengthened<T>::bring_back(T* gradient, T* reference_gradient) const {
  for (int64_t i = 0; i < batch_.n; ++i) {
    if (exponents_[i] == 0) continue;
    T* const row = i < batch_.split ? gradient + i * batch_.d : reference_gradient + (i - batch_.split) * batch_.d;
    scale_by_power(row, batch_.d, exponents_[i], row);
  }
}

template class Lengthened<float>;
template class Lengthened<double>;

}  // namespace fasttriplet::cpu
