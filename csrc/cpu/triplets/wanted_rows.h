// The rows whose gradient is wanted: all of a batch, or those of one process of several that hold the batch together.
#pragma once

#include <cstdint>

namespace fasttriplet::cpu {

// Rows [begin, end) of the batch.
struct RowRange {
  int64_t begin, end;

  int64_t size() const { return end - begin; }
  bool has(int64_t row) const { return row >= begin && row < end; }
};

// Some of the batch's own rows, and some of the references behind them, numbered one after the other.
struct WantedRows {
  RowRange own, references;

  int64_t size() const { return own.size() + references.size(); }
  int64_t row(int64_t at) const { return at < own.size() ? own.begin + at : references.begin + (at - own.size()); }
  // The number of a row, -1 where it is not wanted.
  int64_t number_of(int64_t row) const {
    if (own.has(row)) return row - own.begin;
    return references.has(row) ? own.size() + (row - references.begin) : -1;
  }
  // Where number `at` is written, of gradients [own, D] and [references, D].
  template <typename T>
  T* place(int64_t at, int64_t d, T* gradient, T* reference_gradient) const {
    return at < own.size() ? gradient + at * d : reference_gradient + (at - own.size()) * d;
  }
};

// Of a batch [split, D] with references [n - split, D].
inline WantedRows every_row(int64_t split, int64_t n) { return {{0, split}, {split, n}}; }

}  // namespace fasttriplet::cpu
