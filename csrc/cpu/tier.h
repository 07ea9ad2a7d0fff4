// What an instruction-set tier provides, as a table of functions; cpu/isa.h chooses the table once.
//
// Every tier is the same source, the *-inl.h files, compiled once per instruction set. The screen's float32 products
// may differ between tiers within the bound; everything in float64 is the same to the bit (fixed lanes, nothing fused).
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/bound.h"
#include "core/options.h"

namespace fasttriplet::cpu {

// How a tier packs rows: panels of `width` rows, in an order of its own (tile_*-inl.h). A word is a float32 entry of a
// row or two neighbouring bfloat16 entries, 32 bits either way.
struct Layout {
  int64_t width;       // rows of a panel
  int64_t per_word;    // entries of a row in a word
  int64_t depth_step;  // words of a row are padded with zeros to a multiple of this
  int64_t copies;      // 1: the same words serve as rows and as columns of a tile; 2: each has its own

  int64_t depth(int64_t d) const {
    const int64_t words = (d + per_word - 1) / per_word;
    return (words + depth_step - 1) / depth_step * depth_step;
  }
  int64_t panel_words(int64_t d) const { return copies * width * depth(d); }
};

struct Panels {
  const float* data;  // [panels, panel words]
  int64_t depth;      // words of a row, padding among them
};

// A task of the scan: all pairs i < j with i in rows, j in columns, in packed order. Thresholds are the task's own.
struct ScreenTask {
  Panels panels;
  int64_t row_begin, row_end;        // [begin, end), begin a multiple of width; tiles may reach to the next one
  int64_t column_begin, column_end;  // likewise; never left of the rows
  const int32_t* classes;            // [padded N] ascending
  struct Search {
    const float* key;               // [padded N] of the candidate, +inf where it is none
    const float* row_threshold;     // of anchor i at [i - row_begin], +inf where it is none
    const float* column_threshold;  // of anchor j at [j - column_begin]
  } nearest, farthest;              // among negatives, among positives
  void (*hit)(void* context, int64_t i, int64_t j, float dot, bool positive);  // may lower the thresholds
  void* context;
};

struct RowSurvey {
  double largest;  // max |x|, NaN unless every entry is finite
  double square;   // sum x^2
  double probe;    // sum x w for fixed weights w: with `square`, a fingerprint of the row's values
};

template <typename T>
struct PackTask {
  const T* rows;  // [N, D]
  int64_t d;
  const int32_t* source;     // [packed N] row of the batch
  int64_t count;             // packed N; the last panel is padded with zeros
  const double* factors;     // [N] 1 / |x|, or null
  const double* centre;      // [D], or null: zero
  double scale;              // power of two
  const RowSurvey* surveys;  // [N]
  float* panels;             // [panels, panel words]
  RowNorms* norms;           // [packed N]
};

struct Edge {
  int64_t partner;
  double weight;    // core/distance.h edge_weight
  double distance;  // used by cosine
};

template <typename T>
struct RowKernels {
  void (*survey)(const T* row, int64_t d, const double* weights, RowSurvey* survey);
  void (*pack)(const PackTask<T>& task, int64_t panel);
  // Exact score of two rows; factors are used by cosine only.
  using Score = double (*)(const T* x, const T* y, int64_t d, double x_factor, double y_factor);
  Score score[kDistances];
  // Gradient of one row from all its edges, in their order.
  using Gather = void (*)(const T* rows, int64_t d, const double* factors, int64_t target, const Edge* edges,
                          int64_t count, T* gradient);
  Gather gather[kDistances];
};

struct Tier {
  const char* name;
  const Tier* finer;  // the tier that screens in float32 where bfloat16 is too coarse; null where this one does
  Layout layout;
  void (*screen)(const ScreenTask& task);
  RowKernels<float> float32;
  RowKernels<double> float64;

  const RowKernels<float>& rows(const float*) const { return float32; }
  const RowKernels<double>& rows(const double*) const { return float64; }
};

}  // namespace fasttriplet::cpu
