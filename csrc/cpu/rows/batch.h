// The batch as the kernels see it, and the exact score of two of its rows.
#pragma once

#include <cstdint>
#include <vector>

#include "core/distance.h"
#include "cpu/kernels/tier.h"
#include "cpu/threads/parallel.h"

namespace fasttriplet::cpu {

template <typename T>
struct Batch {
  const T* rows;  // [N, D], or [split, D] where references lie behind them
  int64_t n, d;
  Distance distance;
  const Tier& tier;
  const T* references = nullptr;  // [N - split, D]
  int64_t split = n;

  Rows<T> source() const { return {rows, references, split, d}; }
  const T* row(int64_t i) const { return source()(i); }
  const RowKernels<T>& kernels() const { return tier.rows(rows); }
};

// What one pass over the rows tells.
struct Survey {
  std::vector<RowSurvey> rows;  // [N]
  std::vector<double> factors;  // [N] 1 / |x|, 0 for zero rows; empty unless the distance normalises
  bool all_finite = true;

  bool finite(int64_t i) const { return rows[i].largest == rows[i].largest; }
};

template <typename T>
Survey survey_rows(const Batch<T>& batch, const Parallel& parallel);

// The factors alone, for the backward pass.
template <typename T>
std::vector<double> normalising_factors(const Batch<T>& batch, const Parallel& parallel);

template <typename T>
struct ExactScore {
  const Batch<T>& batch;
  const std::vector<double>& factors;
  typename RowKernels<T>::Score function;

  ExactScore(const Batch<T>& batch, const std::vector<double>& factors)
      : batch(batch), factors(factors), function(batch.kernels().score[static_cast<int>(batch.distance)]) {}

  // Of row i and `count` others.
  void many(int64_t i, const int32_t* others, int64_t count, double* scores) const {
    batch.kernels().scores[static_cast<int>(batch.distance)](batch.source(), factors.data(), i, others, count, scores);
  }
  double operator()(int64_t i, int64_t j) const {
    const bool normalised = !factors.empty();
    return function(batch.row(i), batch.row(j), batch.d, normalised ? factors[i] : 1, normalised ? factors[j] : 1);
  }
};

}  // namespace fasttriplet::cpu
