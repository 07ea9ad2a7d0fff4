#include "cpu/rows/centres.h"

#include <algorithm>

#include "core/prepare.h"

namespace fasttriplet::cpu {
namespace {

// Of rows source[begin] to source[end - 1]; written to `centre` [D]. Returns whether it pays beside `instead` [D], or
// beside nothing.
template <typename T>
bool centre_of(const Batch<T>& batch, const Survey& survey, const std::vector<int32_t>& source, int64_t begin,
               int64_t end, const double* instead, double* centre) {
  constexpr int64_t kSamples = kCentreSamples;
  const T* rows[kSamples];
  double factors[kSamples];
  for (int64_t s = 0; s < kSamples; ++s) {
    const int32_t i = source[begin + centre_sample(static_cast<int>(s), end - begin)];
    rows[s] = batch.row(i);
    factors[s] = survey.factors.empty() ? 1.0 : survey.factors[i];
  }
  double square[kSamples] = {}, centred_square[kSamples] = {};
  for (int64_t k = 0; k < batch.d; ++k) {
    double x[kSamples];
    for (int64_t s = 0; s < kSamples; ++s) x[s] = static_cast<double>(rows[s][k]) * factors[s];
    centre[k] = centre_entry(x);
    const double other = instead == nullptr ? 0 : instead[k];
    for (int64_t s = 0; s < kSamples; ++s) {
      square[s] += (x[s] - other) * (x[s] - other);
      centred_square[s] += (x[s] - centre[k]) * (x[s] - centre[k]);
    }
  }
  return centre_pays(square, centred_square);
}

}  // namespace

template <typename T>
Centres common_centre(const Batch<T>& batch, const Survey& survey, const std::vector<int32_t>& source) {
  Centres centres;
  centres.entries.resize(batch.d);
  const int64_t m = static_cast<int64_t>(source.size());
  if (!centre_of(batch, survey, source, 0, m, nullptr, centres.entries.data())) centres.entries.clear();
  return centres;
}

template <typename T>
Centres class_centres(const Batch<T>& batch, const Survey& survey, const std::vector<int32_t>& source,
                      const std::vector<int32_t>& classes, const Centres& common) {
  const int64_t m = static_cast<int64_t>(classes.size());
  Centres centres;
  std::vector<int64_t> begin;  // [K + 1] of the classes
  centres.of.resize(m);
  for (int64_t r = 0; r < m; ++r) {
    if (r == 0 || classes[r] != classes[r - 1]) begin.push_back(r);
    centres.of[r] = static_cast<int32_t>(begin.size()) - 1;
  }
  begin.push_back(m);
  const int64_t count = static_cast<int64_t>(begin.size()) - 1;
  const double* const instead = common.empty() ? nullptr : common.entries.data();
  std::vector<double> centre(batch.d);
  const auto pays = [&](int64_t c) {
    return centre_of(batch, survey, source, begin[c], begin[c + 1], instead, centre.data());
  };
  constexpr int64_t kSeen = 8;
  const int64_t seen = std::min(count, kSeen);
  bool any = false;
  for (int64_t s = 0; s < seen && !any; ++s) any = pays((2 * s + 1) * count / (2 * seen));
  if (!any) return {};
  centres.entries.assign(count * batch.d, 0.0);
  for (int64_t c = 0; c < count; ++c) {
    const double* const taken = pays(c) ? centre.data() : instead;
    if (taken != nullptr) std::copy_n(taken, batch.d, centres.entries.data() + c * batch.d);
  }
  return centres;
}

template Centres common_centre(const Batch<float>&, const Survey&, const std::vector<int32_t>&);
template Centres common_centre(const Batch<double>&, const Survey&, const std::vector<int32_t>&);
template Centres class_centres(const Batch<float>&, const Survey&, const std::vector<int32_t>&,
                               const std::vector<int32_t>&, const Centres&);
template Centres class_centres(const Batch<double>&, const Survey&, const std::vector<int32_t>&,
                               const std::vector<int32_t>&, const Centres&);

}  // namespace fasttriplet::cpu
