#include "cpu/rows/batch.h"

#include <cmath>

#include "core/prepare.h"

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
      if (normalised)
        survey.factors[i] = normalising_factor(batch.row(i), batch.d, survey.rows[i].largest, survey.rows[i].square);
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
