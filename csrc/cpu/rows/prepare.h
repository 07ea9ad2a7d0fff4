// The rows as the screen multiplies them: those named, in their order, centred, scaled, rounded to the tier's format,
// in panels.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/bound.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/centres.h"

namespace fasttriplet::cpu {

struct Prepared {
  std::unique_ptr<float[], void (*)(void*)> panels{nullptr, nullptr};  // [panels, panel words]
  int64_t depth = 0;                                                   // words of a row, cpu/kernels/tier.h
  std::vector<float> steps, first_sums;                                // [padded M] as in Panels, or empty
  int64_t padded = 0;                                                  // M rounded up to whole panels
  Centres centres;
  std::vector<RowNorms> norms;       // [M]
  Precision precision = {};          // core/bound.h
  ProductScale product = {};         // of inner products
  std::vector<double> centre_norms;  // likewise, of each centre, in scaled units
  double scale = 1;                  // power of two; 0 where nothing can be screened
  bool too_coarse = false;           // not worth screening with: a finer tier should

  Panels view() const { return {panels.get(), depth, steps.data(), first_sums.data()}; }
  // Entry k of the centre, where there is one for all.
  double centre(int64_t k) const { return centres.empty() ? 0 : centres.entries[k]; }
};

// `tier` is the one that will multiply them: the batch's or a finer one. `source` [M] are rows of the batch, finite
// ones.
template <typename T>
Prepared prepare_rows(const Batch<T>& batch, const Tier& tier, const Survey& survey, const std::vector<int32_t>& source,
                      Centres centres, const Parallel& parallel);

// Entry k of a row of the batch before it is rounded: normalised, centred and scaled.
template <typename T>
double prepared_entry(const Batch<T>& batch, const Survey& survey, const Prepared& prepared, int64_t row, int64_t k) {
  const double factor = survey.factors.empty() ? 1 : survey.factors[row];
  return (static_cast<double>(batch.row(row)[k]) * factor - prepared.centre(k)) * prepared.scale;
}

// A prepared row's share of the bound, for the nearest or the farthest.
RowTerms terms_of(const Prepared& prepared, Distance distance, int64_t index, bool farthest);
// The key of the nearest that belongs to an exact score of that row.
double key_of(const Prepared& prepared, Distance distance, int64_t index, double score);

}  // namespace fasttriplet::cpu
