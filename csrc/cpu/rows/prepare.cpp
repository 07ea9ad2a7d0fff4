#include "cpu/rows/prepare.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
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

std::vector<double> centre_norms(const Centres& centres, double scale, int64_t d) {
  std::vector<double> norms;
  for (auto entry = centres.entries.begin(); entry != centres.entries.end();) {
    double square = 0;
    for (int64_t k = 0; k < d; ++k, ++entry) square += *entry * scale * (*entry * scale);
    norms.push_back(std::sqrt(square));
  }
  return norms;
}

ProductScale product_scale(const std::vector<RowNorms>& rows, const std::vector<double>& centre_norms, int64_t d) {
  std::vector<double> norms(rows.size());
  std::transform(rows.begin(), rows.end(), norms.begin(), [](const RowNorms& row) { return row.norm; });
  const int64_t longest = std::min<int64_t>(kUnusualRows + 1, static_cast<int64_t>(norms.size()));
  std::partial_sort(norms.begin(), norms.begin() + longest, norms.end(), std::greater<>());
  double largest = 0;
  for (const double norm : centre_norms) largest = std::max(largest, norm);
  return {usual_norm(norms.data(), longest), norms[0], largest, d};
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
  if (layout.fixed_point()) prepared.steps.resize(prepared.padded);
  if (layout.format == Format::kInt8) prepared.first_sums.resize(prepared.padded);
  const PackTask<T> task = {batch.source(),
                            batch.d,
                            source.data(),
                            m,
                            survey.factors.empty() ? nullptr : survey.factors.data(),
                            centres.empty() ? nullptr : centres.entries.data(),
                            centres.of.empty() ? nullptr : centres.of.data(),
                            scale,
                            survey.rows.data(),
                            prepared.panels.get(),
                            prepared.norms.data(),
                            prepared.steps.data(),
                            prepared.first_sums.data()};
  const double operations = 4.0 * static_cast<double>(m) * static_cast<double>(batch.d);
  if (task.scale == 0)  // differences may overflow: leave the rows and their norms at zero
    std::fill_n(prepared.panels.get(), words, 0.0f);
  else
    for_each_task(parallel, panels, operations, [&](int64_t panel) { tier.rows(batch.rows).pack(task, panel); });

  double largest = 0, norms = 0, squares = 0, residual_squares = 0;
  for (const RowNorms& row : prepared.norms) {
    const double reach = row.norm + kTiny;
    largest = std::max(largest, row.residual / reach);
    norms += reach;
    squares += reach * reach;
    residual_squares += row.residual * row.residual;
  }
  if (batch.distance == Distance::kCosine)
    for (int64_t r = 0; r < m; ++r)
      if (survey.factors[source[r]] == 0) prepared.norms[r].half_square += zero_row_half_square(task.scale);
  const double g = layout.fixed_point()                   ? kConversionError
                   : layout.format == Format::kFloat32    ? accumulation_error_of_parts(batch.d)
                   : layout.format == Format::kBfloat16x2 ? accumulation_error_of_bfloat16x2(batch.d)
                                                          : accumulation_error(batch.d);
  prepared.precision = precision(largest, m == 0 ? 0 : std::sqrt(residual_squares / squares), g);
  prepared.too_coarse =
      layout.format == Format::kInt8 && squares * static_cast<double>(m) > kMostInt8Spread * norms * norms;
  prepared.scale = task.scale;
  if (batch.distance == Distance::kInnerProduct) {
    prepared.centre_norms = centre_norms(centres, task.scale, batch.d);
    prepared.product = product_scale(prepared.norms, prepared.centre_norms, batch.d);
  }
  prepared.centres = std::move(centres);
  return prepared;
}

RowTerms terms_of(const Prepared& prepared, Distance distance, int64_t index, bool farthest) {
  const RowNorms& row = prepared.norms[index];
  const RowTerms nearest = distance == Distance::kInnerProduct
                               ? product_terms(row, prepared.precision.kappa(), prepared.product)
                               : difference_terms(row, difference_error(row, prepared.precision));
  return farthest ? fasttriplet::farthest(nearest) : nearest;
}

double key_of(const Prepared& prepared, Distance distance, int64_t index, double score) {
  if (distance != Distance::kInnerProduct) return key_of_score(distance, score, 0, prepared.scale);
  const std::vector<int32_t>& centre_of = prepared.centres.of;
  const double norm =
      prepared.centre_norms.empty() ? 0 : prepared.centre_norms[centre_of.empty() ? 0 : centre_of[index]];
  return key_of_score(distance, score, norm, prepared.scale) + prepared.norms[index].centre_dot;
}

template Prepared prepare_rows(const Batch<float>&, const Tier&, const Survey&, const std::vector<int32_t>&, Centres,
                               const Parallel&);
template Prepared prepare_rows(const Batch<double>&, const Tier&, const Survey&, const std::vector<int32_t>&, Centres,
                               const Parallel&);

}  // namespace fasttriplet::cpu
