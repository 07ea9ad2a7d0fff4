#include "cpu/batch.h"

#include <cmath>
#include <limits>

namespace fasttriplet::cpu {
namespace {

constexpr int64_t kGrain = 64;  // rows a task: 32 KB of float32 at D = 128

// Fixed weights of a fingerprint: the fractional parts of multiples of the golden ratio, in [1, 2).
std::vector<double> probe_weights(int64_t d) {
  std::vector<double> weights(d);
  for (int64_t k = 0; k < d; ++k) {
    const double multiple = 0.6180339887498949 * static_cast<double>(k + 1);
    weights[k] = 1 + (multiple - std::floor(multiple));
  }
  return weights;
}

// 1 / |x|, or 0 where |x| is below the smallest normal number. Squares outside float64's comfortable range, which only
// float64 rows can have, are summed again after scaling by a power of two.
template <typename T>
double normalising_factor(const T* row, int64_t d, const RowSurvey& survey) {
  if (!(survey.largest > 0)) return 0;
  if (survey.largest > 1e-140 && survey.largest < 1e140) return 1 / std::sqrt(survey.square);
  const int exponent = std::ilogb(survey.largest);
  double square = 0;
  for (int64_t k = 0; k < d; ++k) {
    const double x = std::scalbn(static_cast<double>(row[k]), -exponent);
    square += x * x;
  }
  const double norm = std::sqrt(square);  // of the scaled row: its own norm may be beyond the range
  return std::scalbn(norm, exponent) < std::numeric_limits<double>::min() ? 0 : std::scalbn(1 / norm, -exponent);
}

}  // namespace

template <typename T>
Survey survey_rows(const Batch<T>& batch, const Parallel& parallel) {
  Survey survey;
  survey.rows.resize(batch.n);
  const bool normalised = batch.distance == Distance::kCosine;
  if (normalised) survey.factors.resize(batch.n);
  const std::vector<double> weights = probe_weights(batch.d);
  const double operations = 2.0 * static_cast<double>(batch.n) * static_cast<double>(batch.d);
  for_each_range(parallel, batch.n, kGrain, operations, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      batch.kernels().survey(batch.row(i), batch.d, weights.data(), &survey.rows[i]);
      if (normalised) survey.factors[i] = normalising_factor(batch.row(i), batch.d, survey.rows[i]);
    }
  });
  for (int64_t i = 0; i < batch.n; ++i) survey.all_finite = survey.all_finite && survey.finite(i);
  return survey;
}

template <typename T>
std::vector<double> normalising_factors(const Batch<T>& batch, const Parallel& parallel) {
  return survey_rows(batch, parallel).factors;
}

template Survey survey_rows(const Batch<float>&, const Parallel&);
template Survey survey_rows(const Batch<double>&, const Parallel&);
template std::vector<double> normalising_factors(const Batch<float>&, const Parallel&);
template std::vector<double> normalising_factors(const Batch<double>&, const Parallel&);

}  // namespace fasttriplet::cpu
