// What an instruction-set tier provides, as a table of functions; cpu/isa/isa.h chooses the table once.
//
// Every tier is the same source, the *-inl.h files, compiled once per instruction set. The screen's float32 products
// may differ between tiers within the bound; everything in float64 is the same to the bit (fixed lanes, nothing fused).
#pragma once

#include <cstdint>

#include "core/bound.h"
#include "core/options.h"

namespace fasttriplet::cpu {

// What the entries of rows are rounded to. Integers are multiples of a step that each row has for itself
// (core/bound.h). Of two bfloat16 an entry is the sum.
enum class Format { kFloat32, kBfloat16, kBfloat16x2, kInt16, kInt8 };

// How a tier packs rows: panels of `width` rows, in an order of its own (tile_*-inl.h). A word is a float32 entry of a
// row, or so many neighbouring ones of a narrower format, 32 bits either way. Of two bfloat16 an entry a word has the
// upper parts of two entries, or the lower ones.
struct Layout {
  Format format;
  int64_t width;       // rows of a panel
  int64_t depth_step;  // words of a row are padded with zeros to a multiple of this
  int64_t copies;      // 1: the same words serve as rows and as columns of a tile; 2: each has its own

  constexpr int64_t per_word() const {  // entries, in the mean
    return format == Format::kFloat32 || format == Format::kBfloat16x2 ? 1 : format == Format::kInt8 ? 4 : 2;
  }
  constexpr bool fixed_point() const { return format == Format::kInt16 || format == Format::kInt8; }
  int64_t depth(int64_t d) const {
    const int64_t words = (d + per_word() - 1) / per_word();
    return (words + depth_step - 1) / depth_step * depth_step;
  }
  int64_t panel_words(int64_t d) const { return copies * width * depth(d); }
};

// A number of rows that are whole tiles in every tier.
inline constexpr int64_t kTileRows = 32;

struct Panels {
  const float* data;  // [panels, panel words]
  int64_t depth;      // words of a row, padding among them
  // [padded N] the rows' steps, of fixed point, else null; what a sum of int8 products begins with, an int32, else
  // null.
  const float* steps;
  const float* first_sums;
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
    bool wanted;                    // else tiles of no other use are not multiplied
  } nearest, farthest;              // among negatives, among positives
  void (*hit)(void* context, int64_t i, int64_t j, float dot, bool positive);  // may lower the thresholds
  void* context;
};

// A strip of keys: some rows against some columns, both in packed order (cpu/kernels/scan-inl.h).
struct StripTask {
  Panels panels;
  int64_t row_begin, rows;        // row_begin a multiple of the tile's height; keys are written up to whole tiles
  int64_t column_begin, columns;  // likewise, and how many, a multiple of Layout::width
  const float* row_terms;         // of row row_begin + r at [r], up to whole tiles
  const float* column_terms;      // [columns] of column column_begin + c at [c], NaN where a column is none
  float* keys;                    // [rows up to whole tiles, columns]
};

// One row of keys. Column j's exact key lies within widths[j], and a width of the row's own, of keys[j]; NaN is none.
struct RowOfKeys {
  const float* keys;
  const float* widths;
  int64_t count;
};

// Columns whose exact key may be above a floor and not above a limit, both moved by the row's own width:
// key + width >= floor and key - width <= limit.
struct KeyWindow {
  float floor, limit;
};

inline constexpr int kWindows = 4;  // looked for at once: their bounds and the row's fit the registers

// An anchor's thresholds, ascending, and equal steps over their range, in which a key finds its place among them.
struct ThresholdSteps {
  static constexpr int32_t kUsual = 2;  // thresholds that most steps do not have more of
  const float* sure;                    // [thresholds + kUsual]: above one where key - width >= sure; NaN behind them
  const int32_t* begin;                 // [steps + 1] thresholds before a step
  float low, per_unit, last;            // step (key - width - low) * per_unit, from 0, also where that is NaN, to last
  const uint8_t* wanted;                // [steps] 1, or 0 where keys are left out; null where none are
};

// What is found out about the keys in a window. But for `nearest`, by key, with room for all.
struct PlacedKeys {
  int32_t* columns;  // ascending
  int32_t* below;    // thresholds that the key is above, for sure
  float* lower;      // key - width
  float* upper;      // key + width
  float* nearest;    // [thresholds + 1] lowered to the smallest key + width of the keys above so many
};

struct ScanKernels {
  int64_t height;  // rows of a tile
  void (*strip)(const StripTask& task);
  // bounds[w], for `count` <= kWindows floors: the smallest key + width of the columns with key - width >= sure[w], or
  // infinity. A step above 1 looks at that part of the vectors only: a bound still, not the smallest.
  void (*smallest_above)(const RowOfKeys& row, int64_t step, const float* sure, int count, float* bounds);
  float (*largest)(const RowOfKeys& row);  // the largest key - width, or -infinity
  // The columns in at least one of `count` <= kWindows windows, ascending; `found` has room for all. Returns how many.
  // below[w], unless null: the columns with key + width < windows[w].floor.
  int64_t (*collect)(const RowOfKeys& row, const KeyWindow* windows, int count, int32_t* found, int64_t* below);
  // Places the keys in the window; returns how many. Of `step` as above.
  int64_t (*place)(const RowOfKeys& row, int64_t step, const KeyWindow& window, const ThresholdSteps& thresholds,
                   const PlacedKeys& placed);
};

// Sums over all negatives or positives (cpu/kernels/dense-inl.h): how the slope of a pair follows from its distance.
//   hinge     how many of an anchor's positives are farther than the distance less the margin
//   softplus  the sum of their slopes
//   weighted  the slope of the softmax-weighted mean distance
enum class DenseKind { kHinge, kSoftplus, kWeighted };
inline constexpr int kDenseKinds = 3;

// What all rows of a scan share. Columns are [stride], padded with what counts for nothing; as anchors they bring
// [column_thresholds, stride] numbers and an upstream gradient each, zero where they are none.
//   hinge     surely, perhaps: a distance is below the k-th threshold where key + width <= surely, and may be where
//             key - width <= perhaps; the column's own width is in them
//   softplus  perhaps: the k-th positive's distance; surely, looked at by no kernel: as of a hinge, for
//             DenseRow::largest_key
//   weighted  of s = sign * distance, surely: log sum exp(s - pivot), and then the pivot; perhaps: the mean of s -
//   pivot
struct DenseTask {
  int64_t stride;
  const float* terms;
  const float* widths;
  int64_t column_thresholds;
  const float* surely;
  const float* perhaps;
  const float* upstreams;
  float close;         // a key at most this times the sum of its terms is too close
  float key_scale;     // distance = key * scale, or its root; for inner products up to a constant of the batch
  float weight_scale;  // edge weight = slope * this, or slope / distance
  float sign;          // weighted: +1 where softmax weights grow with the distance, as of positives, else -1
};

struct DenseRow {
  float* keys;  // [stride] NaN where a pair is none; replaced by edge weights (core/distance.h), zero where left out
  int64_t begin, end;  // columns to look at, whole vectors
  float term, width, upstream;
  int64_t thresholds;  // likewise of the row as an anchor, 0 where it is none
  const float* surely;
  const float* perhaps;
  float log_total, mean, pivot;
  int64_t* counts;  // [thresholds] added to: pairs below each threshold
  double* slopes;   // [thresholds] added to: slopes of each positive
  int32_t* unsure;  // columns left out, to be scored exactly
  int64_t unsure_count;
  double own_total;     // hinge: sum of distances, each as often as counted; softplus: the loss; softmax: sum exp(s -
                        // largest)
  double others_total;  // hinge: how often a column as an anchor counts the row; softmax: that sum times s - largest
  double weight_total;  // of the edge weights
  double shrink;        // of edge weight times distance
  float largest_key;    // softplus: of the row's pairs, or -infinity
  float largest;        // softmax: of the pairs' s, or -infinity
};

// An anchor's positives, of a hinge (cpu/kernels/counts-inl.h): a negative at `key` is surely in an active triplet with
// one where key + its width <= surely, and perhaps where key - its width <= perhaps. Minus infinity: never. Arrays are
// read and written up to whole vectors.
struct HingeLimits {
  const float* keys;    // [count] of the positives
  const float* widths;  // [count]
  int64_t count;
  float width, margin, slack;  // the anchor's own width; in keys; what the anchor's exact scores may be off by
  float key_scale;             // as in DenseTask
  float* surely;               // [count]
  float* perhaps;              // [count]
  float* distances;            // [count]
};

// A negative that its row's table cannot tell: the first of the positives, ascending, that it may be below.
struct UnsureCount {
  int32_t column, first;
  float key;
};

// How many of an anchor's positives each of its negatives is in an active triplet with. Slot (key - base) * inverse of
// the table, from 1 to last_slot, has that number plus one, or -1 - first where it depends; slot 0 has -1.
struct HingeCounts {
  float* keys;  // [stride] NaN where a pair is none; replaced by edge weights, zero where a pair is unsure
  const float* terms;
  const float* widths;
  int64_t stride;
  float term, close, wide;  // the anchor's; as in DenseTask; a width that is unsure by itself
  float base, inverse, last_slot;
  const int32_t* table;
  float key_scale, weight_scale;  // edge weight = count * weight_scale, or that / distance
  int32_t* histogram;             // [most positives + 2, 2] added to: by number plus one, in two chains
  int32_t* column_counts;         // [stride] added to
  UnsureCount* unsure;            // [stride] beginning at unsure_count
  int64_t unsure_count;
  double total;  // sum of count times distance
};

// sums [count, depth] += weights [count, stride] times rows [columns, depth], depth a multiple of the lanes.
// Transposed: sums [columns, depth] += weights' [columns, count] times rows [count, depth].
struct WeightedSums {
  const float* weights;
  int64_t count, stride;
  const float* rows;
  int64_t columns, depth;
  double* sums;
};

struct DenseKernels {
  int64_t lanes;
  void (*row[kDenseKinds][2])(const DenseTask& task, DenseRow& row);  // the second where the distance is a root
  void (*softmax[2])(const DenseTask& task, DenseRow& row);
  void (*hinge_limits[2])(const HingeLimits& task);
  void (*hinge_counts[2])(HingeCounts& task);
  void (*weighted_sums)(const WeightedSums& task);
  void (*transposed_sums)(const WeightedSums& task);
};

struct RowSurvey {
  double largest;  // max |x|, NaN unless every entry is finite
  double square;   // sum x^2
  double probe;    // sum x w for fixed weights w: with `square`, a fingerprint of the row's values
};

// The rows of a batch: its own, and behind them those of the references, which lie elsewhere.
template <typename T>
struct Rows {
  const T* own;         // [split, D]
  const T* references;  // [N - split, D], null where there are none
  int64_t split, d;

  const T* operator()(int64_t i) const { return i < split ? own + i * d : references + (i - split) * d; }
};

template <typename T>
struct PackTask {
  Rows<T> rows;
  int64_t d;
  const int32_t* source;     // [packed N] row of the batch
  int64_t count;             // packed N; the last panel is padded with zeros
  const double* factors;     // [N] 1 / |x|, or null
  const double* centres;     // [K, D], or null: zero
  const int32_t* centre_of;  // [packed N] the row of centres to take, or null: the first
  double scale;              // power of two
  const RowSurvey* surveys;  // [N]
  float* panels;             // [panels, panel words]
  RowNorms* norms;           // [packed N]
  float* steps;              // as in Panels
  float* first_sums;

  const double* centre(int64_t packed) const {
    return centres == nullptr || centre_of == nullptr ? centres : centres + centre_of[packed] * d;
  }
};

struct Edge {
  int64_t partner;
  double weight;    // core/distance.h edge_weight
  double distance;  // used by cosine
};

// An edge as one of its ends sees it.
struct Pull {
  double weight;    // core/distance.h edge_weight
  int32_t partner;  // row of the batch
};

// Two edges that share a row: from the hub to each of two ends. Arrays are in the order hub, first end, second end.
template <typename T>
struct Fork {
  const T* rows[3];     // [D] each
  T* gradients[3];      // [D] each, null where it is not wanted
  double factors[3];    // 1 / |x|, used by cosine
  double weights[2];    // of the edges, core/distance.h edge_weight
  double distances[2];  // used by cosine
};

template <typename T>
struct RowKernels {
  void (*survey)(const T* row, int64_t d, const double* weights, RowSurvey* survey);
  void (*pack)(const PackTask<T>& task, int64_t panel);
  // Exact score of two rows; factors are used by cosine only.
  using Score = double (*)(const T* x, const T* y, int64_t d, double x_factor, double y_factor);
  Score score[kDistances];
  // Of one row and several others, the same bits; `factors` are those of the batch, null but for cosine. A row is read
  // and widened once for all.
  using Scores = void (*)(const Rows<T>& rows, const double* factors, int64_t row, const int32_t* others, int64_t count,
                          double* scores);
  Scores scores[kDistances];
  // Gradient of one row from all its edges, in their order.
  using Gather = void (*)(const Rows<T>& rows, const double* factors, int64_t target, const Edge* edges, int64_t count,
                          T* gradient);
  Gather gather[kDistances];
  void (*fork_gradient[kDistances])(const Fork<T>& fork, int64_t d);
  // sums [D] += what the edges of row `target` pull it by, in their order, for cosine at its unit row.
  void (*pull[kDistances])(const Rows<T>& rows, const double* factors, int64_t target, const Pull* pulls, int64_t count,
                           double* sums);
};

struct Tier {
  const char* name;
  const Tier* finer;  // the tier that screens where this one is too coarse; null where this one does in float32
  Layout layout;
  void (*screen)(const ScreenTask& task);
  ScanKernels scan;
  const DenseKernels* dense;  // null where the tier screens in another format than float32
  RowKernels<float> float32;
  RowKernels<double> float64;

  const RowKernels<float>& rows(const float*) const { return float32; }
  const RowKernels<double>& rows(const double*) const { return float64; }
  // Itself, or a finer one where rows of d entries are too deep for it.
  const Tier& for_depth(int64_t d, Distance distance) const {
    const int64_t most = distance == Distance::kInnerProduct ? kMostInt8EntriesOfProducts : kMostInt8Entries;
    return layout.format == Format::kInt8 && d > most ? *finer : *this;
  }
  // Itself, or the one of its finer tiers that screens in float32.
  const Tier& float32_tier() const { return finer == nullptr ? *this : finer->float32_tier(); }
};

}  // namespace fasttriplet::cpu
