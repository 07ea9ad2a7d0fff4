#include "cpu/rows/prepare.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <new>

#include "core/prepare.h"

namespace fasttriplet::cpu {
namespace {

double scale_of(const Survey& survey, const std::vector<int32_t>& source, const Centres& centres) {
  double largest = 0;
  for (const int32_t i : source)
    largest = std::max(largest, survey.rows[i].largest * (survey.factors.empty() ? 1.0 : survey.factors[i]));
  double shift = 0;
  for (const double c : centres.entries) shift = std::max(shift, std::fabs(c));
  return scale_for(largest + shift);
}

// The step of fixed-point entries, from the largest norm and the largest entry of the prepared rows. With a centre or
// factors these take a pass over the rows.
template <typename T>
float step_of(const Batch<T>& batch, const Survey& survey, const std::vector<int32_t>& source, const Centres& centres,
              double scale, const Parallel& parallel) {
  double largest_square = 0, largest = 0;
  if (centres.empty() && survey.factors.empty()) {
    for (const int32_t i : source) {
      largest_square = std::max(largest_square, survey.rows[i].square);
      largest = std::max(largest, survey.rows[i].largest);
    }
  } else {
    const std::vector<double> none(centres.empty() ? batch.d : 0, 0.0);
    const double* const first = centres.empty() ? none.data() : centres.entries.data();
    const int64_t m = static_cast<int64_t>(source.size());
    std::mutex lock;
    for_each_range(parallel, m, 64, 4.0 * static_cast<double>(m) * static_cast<double>(batch.d),
                   [&](int64_t begin, int64_t end) {
                     double range_square = 0, range_largest = 0;
                     for (int64_t r = begin; r < end; ++r) {
                       const T* const row = batch.row(source[r]);
                       const double factor = survey.factors.empty() ? 1.0 : survey.factors[source[r]];
                       const double* const c = first + (centres.of.empty() ? 0 : centres.of[r] * batch.d);
                       double square[4] = {}, most[4] = {};  // chains of their own
                       const auto add = [&](int64_t k, int64_t lane) {
                         const double x = static_cast<double>(row[k]) * factor - c[k];
                         square[lane] += x * x;
                         most[lane] = std::max(most[lane], std::fabs(x));
                       };
                       int64_t k = 0;
                       for (; k + 4 <= batch.d; k += 4)
                         for (int64_t lane = 0; lane < 4; ++lane) add(k + lane, lane);
                       for (; k < batch.d; ++k) add(k, 0);
                       range_square = std::max(range_square, (square[0] + square[1]) + (square[2] + square[3]));
                       range_largest = std::max(range_largest, *std::max_element(most, most + 4));
                     }
                     const std::lock_guard<std::mutex> guard(lock);
                     largest_square = std::max(largest_square, range_square);
                     largest = std::max(largest, range_largest);
                   });
  }
  return static_cast<float>(fixed_point_step(std::sqrt(largest_square) * scale, largest * scale, batch.d));
}

ProductScale product_scale(const std::vector<RowNorms>& rows, const Centres& centres, double scale, int64_t d) {
  std::vector<double> norms(rows.size());
  std::transform(rows.begin(), rows.end(), norms.begin(), [](const RowNorms& row) { return row.norm; });
  const int64_t longest = std::min<int64_t>(kUnusualRows + 1, static_cast<int64_t>(norms.size()));
  std::partial_sort(norms.begin(), norms.begin() + longest, norms.end(), std::greater<>());
  double largest_square = 0;
  for (auto entry = centres.entries.begin(); entry != centres.entries.end();) {
    double square = 0;
    for (int64_t k = 0; k < d; ++k, ++entry) square += *entry * scale * (*entry * scale);
    largest_square = std::max(largest_square, square);
  }
  return {usual_norm(norms.data(), longest), norms[0], std::sqrt(largest_square), d};
}

}  // namespace

template <typename T>
Prepared prepare_rows(const Batch<T>& batch, const Tier& tier, const Survey& survey, const std::vector<int32_t>& source,
                      Centres centres, const Parallel& parallel) {
  const Layout& layout = tier.layout;
  const int64_t m = static_cast<int64_t>(source.size());
  const int64_t panels = (m + layout.width - 1) / layout.width, words = panels * layout.panel_words(batch.d);
  Prepared prepared;
  prepared.depth = layout.depth(batch.d);
  prepared.padded = panels * layout.width;
  prepared.norms.resize(m);
  const size_t bytes = (sizeof(float) * static_cast<size_t>(std::max<int64_t>(words, 1)) + 63) / 64 * 64;
  prepared.panels = {static_cast<float*>(std::aligned_alloc(64, bytes)), std::free};
  if (!prepared.panels) throw std::bad_alloc();

  const double scale = scale_of(survey, source, centres);
  const bool fixed_point = layout.fixed_point && scale != 0;
  const float step = fixed_point ? step_of(batch, survey, source, centres, scale, parallel) : 1;
  const PackTask<T> task = {batch.source(),
                            batch.d,
                            source.data(),
                            m,
                            survey.factors.empty() ? nullptr : survey.factors.data(),
                            centres.empty() ? nullptr : centres.entries.data(),
                            centres.of.empty() ? nullptr : centres.of.data(),
                            scale,
                            step,
                            survey.rows.data(),
                            prepared.panels.get(),
                            prepared.norms.data()};
  const double operations = 4.0 * static_cast<double>(m) * static_cast<double>(batch.d);
  if (task.scale == 0)  // differences may overflow: leave the rows and their norms at zero
    std::fill_n(prepared.panels.get(), words, 0.0f);
  else
    for_each_task(parallel, panels, operations, [&](int64_t panel) { tier.rows(batch.rows).pack(task, panel); });

  double rho = 0;
  for (const RowNorms& row : prepared.norms) rho = std::max(rho, row.residual / (row.norm + kTiny));
  if (batch.distance == Distance::kCosine)
    for (int64_t r = 0; r < m; ++r)
      if (survey.factors[source[r]] == 0) prepared.norms[r].half_square += zero_row_half_square(task.scale);
  const double g = layout.per_word == 1 ? accumulation_error_of_parts(batch.d) : accumulation_error(batch.d);
  prepared.kappa = kappa(rho, fixed_point ? kConversionError : g);
  prepared.too_coarse = fixed_point && prepared.kappa > kCoarsestFixedPoint;
  prepared.unit = step * step;
  prepared.scale = task.scale;
  if (batch.distance == Distance::kInnerProduct)
    prepared.product = product_scale(prepared.norms, centres, task.scale, batch.d);
  prepared.centres = std::move(centres);
  return prepared;
}

RowTerms terms_of(const Prepared& prepared, Distance distance, int64_t index, bool farthest) {
  const RowNorms& row = prepared.norms[index];
  const RowTerms nearest = distance == Distance::kInnerProduct ? product_terms(row, prepared.kappa, prepared.product)
                                                               : difference_terms(row, prepared.kappa);
  return farthest ? fasttriplet::farthest(nearest) : nearest;
}

template Prepared prepare_rows(const Batch<float>&, const Tier&, const Survey&, const std::vector<int32_t>&, Centres,
                               const Parallel&);
template Prepared prepare_rows(const Batch<double>&, const Tier&, const Survey&, const std::vector<int32_t>&, Centres,
                               const Parallel&);

}  // namespace fasttriplet::cpu
