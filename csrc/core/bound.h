// The screen's bound: what a low-precision dot product still says for sure about a pair.
//
// The screen multiplies rounded rows x^ of the prepared rows x (less a centre c, scaled by a power of two). With |x
// - x^| <= r_x and the products summed in float32,
//
//   |x.y - fl(x^.y^)| <= |x^| r_y + |y^| r_x + r_x r_y + g |x^| |y^|        (Cauchy-Schwarz)
//
// where g bounds the relative error of the sum of D products. With rho = max r / (|x^| + tiny) this is at most
// kappa (|x^| + tiny) (|y^| + tiny), kappa = 2 rho + rho^2 + g. `tiny` keeps rows that vanish beside the largest one,
// and products that fall below the normal float32 range or are flushed to zero, inside the bound.
//
// The scan looks for the smallest key of each anchor; a policy says which:
//   nearest   key = h              h = |x|^2 / 2 + |y|^2 / 2 - x.y, or -c.y - x.y for inner products
//   farthest  key = -h
// so that an exact score tells its key: for inner products -(x + c).(y + c) is h less c.x + c.c. Both are written
//
//   lower = anchor[i] + candidate[j] - sign * dot,   lower <= key <= lower + anchor_slack[i] + candidate_slack[j]
//
// So the smallest upper bound S seen by an anchor rejects every pair with lower > S, and the pair with the smallest key
// is never rejected.
//
// The bound is split between the two rows, so that the test needs one number a row. For differences |x^| r_y <=
// (a |x^|^2 + r_y^2 / a) / 2 for any a > 0, likewise the other terms: each row pays for its own residual, and for a,
// some usual r / |x^|. That is a few of the format's roundings of the key's own terms. Inner products have no such
// terms: the anchor carries the bound against the usual norm, and the few longer candidates theirs (ProductScale).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/options.h"
#include "core/shared.h"

namespace fasttriplet {

inline constexpr double kUnitRoundoff = 0x1p-24;  // of float32, round to nearest
// g tiny^2 stays above what is lost where products and sums are flushed to zero, each 2^-126. That is most where an
// entry has three products: 3.2 D losses beside a g of D / 11 roundings.
inline constexpr double kTiny = 0x1p-48;

// g for a sum of d products, each multiply and each add rounded once or fused; n u / (1 - n u), Higham 2002, lemma 3.1.
FT_SHARED inline double accumulation_error(int64_t d) {
  const double nu = static_cast<double>(d + 2) * kUnitRoundoff;
  return nu / (1 - nu);
}

// g where sums of kSumPart products each are added up: a product is rounded with its part, and with the parts' sum.
inline constexpr int64_t kSumPart = 32;
inline double accumulation_error_of_parts(int64_t d) {
  return accumulation_error(d <= kSumPart ? d : kSumPart + (d + kSumPart - 1) / kSumPart);
}

// g of two bfloat16 an entry, by Intel's tile unit: 16 exact products are added up, then two such sums, and three of
// those for 32 entries. The product of the lower parts, each at most 2^-8 of its entry, is left out.
inline double accumulation_error_of_bfloat16x2(int64_t d) {
  return accumulation_error(16 + 3 * ((d + 31) / 32)) + 0x1.1p-16;
}

// g of NVIDIA's tensor cores, which add 16 exact products and the accumulator at once. Each of the 17 is cut off, not
// rounded, one unit below the last place of the largest, and so is their sum (Fasi, Higham, Mikaitis and Pranesh 2021,
// "Numerical behavior of NVIDIA tensor cores"). That is at most 18 * 2^-23 |x^| |y^| a step. D / 16 steps make it
// 2.25 D 2^-24 in all; nearly twice as much is allowed.
FT_SHARED inline double tensor_core_error(int64_t d) { return 4 * static_cast<double>(d + 16) * kUnitRoundoff; }

// g of sums of integer products, which are exact: only their conversion to float32 and the products with two steps
// round.
inline constexpr double kConversionError = 4 * kUnitRoundoff;
inline constexpr int64_t kMaxColumns = int64_t{1} << 22;  // keeps n u at 1/4 or less

// Fixed point: x^ = q step with an integer q, whose products are summed in int32, and a step of the row's own. A step
// of eight significant bits makes q step a float32 number; a product of steps below 2^-60 would vanish.
inline constexpr double kSmallestStep = 0x1p-60;
inline float step_above(double least) {
  float step = static_cast<float>(std::max(least, kSmallestStep));
  uint32_t bits;
  std::memcpy(&bits, &step, sizeof bits);
  bits = (bits + 0x10000) & 0xffff0000;
  std::memcpy(&step, &bits, sizeof step);
  return step;
}

// int8: |q| <= 127, so that sums of up to kMostInt8Entries products, each at most 127^2, stay far below 2^31. Deeper
// rows would have too many candidates: distances lie the closer together, the more entries a row has.
// Inner products have a bound against the longest of the usual rows, and more of them.
inline constexpr int64_t kMostInt8Entries = 768, kMostInt8EntriesOfProducts = 256;
inline float int8_step(double largest_entry) { return step_above(largest_entry / 127); }

// int16: |q| <= |x| / step + sqrt(D) / 2. So every sum of products is at most |q| |p| <= 46340^2 < 2^31
// (Cauchy-Schwarz), one over part of the entries as well. The other half of sqrt(D) takes up a few roundings in
// float32.
inline constexpr double kLargestInt16Norm = 46340, kLargestInt16Entry = 32767;
inline float int16_step(double norm, double largest_entry, int64_t d) {
  const double norm_step = norm / (kLargestInt16Norm - std::sqrt(static_cast<double>(d)));
  return step_above(std::max(norm_step, largest_entry / kLargestInt16Entry));
}

FT_SHARED inline double kappa(double rho, double g) { return 2 * rho + rho * rho + g; }

// Rows of very different norms are not for int8: what is short beside an anchor looks all alike. Mean square of the
// norms over the square of their mean.
inline constexpr double kMostInt8Spread = 2;

// How coarse a batch's products are: r / |x^| of rows, the largest (rho) and a usual one (a), and the error of sums
// (g).
struct Precision {
  double largest, usual, sums;

  double kappa() const { return fasttriplet::kappa(largest, sums); }
};

// A usual one far below the largest is dear for that row, and one of zero for any: a row of rho pays twice as much at
// most as with all alike.
inline Precision precision(double largest, double usual, double sums) {
  constexpr double kLeast = 0x1p-40;
  const double least = largest / 4 > kLeast ? largest / 4 : kLeast;
  return {largest, usual > least ? usual : least, sums};
}

// What the screen knows of one prepared row; everything in float64 and in scaled units.
struct RowNorms {
  double half_square;  // |x|^2 / 2 of the exact prepared row
  double norm;         // |x^| of the rounded row, or a little more: |x| + residual
  double residual;     // |x - x^|
  double centre_dot;   // c.x
};

// One row's share of the bound, in a policy's key.
struct RowTerms {
  double anchor, candidate, anchor_slack, candidate_slack;
};

// Slack for what happens after the dot product: float64 roundings of these terms, and of the exact score that the
// settle step will compare. A few float32 roundings are far above both.
FT_SHARED inline double roundings(double half_square) { return 8 * kUnitRoundoff * half_square; }

inline double difference_error(const RowNorms& row, const Precision& precision) {
  const double reach = row.norm + kTiny, residual = row.residual;
  const double of_rows = precision.usual * reach * reach + (1 / precision.usual + 1) * residual * residual;
  return (of_rows + precision.sums * reach * reach) / 2 + roundings(row.half_square);
}

// Likewise where all rows are taken to be as coarse as the coarsest.
FT_SHARED inline double difference_error(const RowNorms& row, double kappa) {
  const double reach = row.norm + kTiny;
  return kappa * reach * reach / 2 + roundings(row.half_square);
}

FT_SHARED inline RowTerms difference_terms(const RowNorms& row, double error) {
  const double lower = row.half_square - error;
  return {lower, lower, 2 * error, 2 * error};
}

// An anchor's share is the bound against `usual_norm`, which all but a few rows keep to. A longer candidate brings the
// bound against the largest norm itself: it is always looked at, and does not make the others coarse.
//
// The exact scores are of the rows themselves, not of the centred ones, and so are their float64 roundings. Each of
// those is at most D 2^-53 times the product of the rows' norms with the centre put back; likewise for c.y.
struct ProductScale {
  double usual_norm, largest_norm, centre_norm;
  int64_t d;
};

// Up to four rows that are far longer than all others are not usual; each of them is looked at by every anchor.
// `longest` are the largest norms, descending, of one row more or of all rows.
inline constexpr int kUnusualRows = 4;
FT_SHARED inline double usual_norm(const double* longest, int64_t count) {
  double usual = longest[0];
  for (int64_t k = 1; k < count; ++k)
    if (longest[k] < longest[k - 1] / 4) usual = longest[k];
  return usual;
}

FT_SHARED inline double product_error(double norm, double other_norm, double kappa, const ProductScale& scale) {
  const double reach = norm + kTiny, other_reach = other_norm + kTiny;
  const double float64_error =
      static_cast<double>(scale.d + 8) * 0x1p-50 * (reach + scale.centre_norm) * (other_reach + scale.centre_norm);
  return (kappa + 8 * kUnitRoundoff) * reach * other_reach + float64_error;
}

FT_SHARED inline RowTerms product_terms(const RowNorms& row, double kappa, const ProductScale& scale) {
  const double e = product_error(row.norm, scale.usual_norm, kappa, scale);
  const double as_candidate =
      row.norm > scale.usual_norm ? product_error(row.norm, scale.largest_norm, kappa, scale) : 0;
  return {-e, -row.centre_dot - as_candidate, 2 * e, 2 * as_candidate};
}

// The farthest pair is the one with the smallest -h: negate the upper ends.
FT_SHARED inline RowTerms farthest(const RowTerms& nearest) {
  return {-(nearest.anchor + nearest.anchor_slack), -(nearest.candidate + nearest.candidate_slack),
          nearest.anchor_slack, nearest.candidate_slack};
}

// One prepared row's share in a whole row of keys, key = term[i] + term[j] - dot in float32 (cpu/kernels/scan-inl.h).
// It differs from the exact key by at most anchor_width[i] + candidate_width[j].
struct KeyTerms {
  double term, anchor_width, candidate_width;
};

// The float32 roundings of a key: of both terms, their sum, the difference, and of key - width and key + width. Each is
// of a number that is at most 2 (|x|^2 / 2 + |y|^2 / 2) for differences. Twice as much is allowed.
inline constexpr double kKeyRoundings = 12 * kUnitRoundoff;

inline KeyTerms difference_key_terms(const RowNorms& row, const Precision& precision) {
  const double width = difference_error(row, precision) + kKeyRoundings * row.half_square;
  return {row.half_square, width, width};
}

FT_SHARED inline KeyTerms product_key_terms(const RowNorms& row, double kappa, const ProductScale& scale) {
  const double rounded = kappa + kKeyRoundings;
  const double as_candidate =
      row.norm > scale.usual_norm ? product_error(row.norm, scale.largest_norm, rounded, scale) : 0;
  const double term_width = kKeyRoundings * std::fabs(row.centre_dot);
  return {-row.centre_dot, product_error(row.norm, scale.usual_norm, rounded, scale) + term_width,
          as_candidate + term_width};
}

// The exact key that belongs to an exact score, in the units of prepared rows.
FT_SHARED inline double key_of_score(Distance distance, double score, double centre_norm, double scale) {
  switch (distance) {
    case Distance::kEuclidean:
      return score * scale * (score * scale) / 2;
    case Distance::kSquaredEuclidean:
      return score * scale * scale / 2;
    case Distance::kInnerProduct:  // -x.y = -(X + c).(Y + c)
      return score * scale * scale + centre_norm * centre_norm;
    default:
      return score * scale * scale;
  }
}

// The largest float32 number that is not above `value`. Not by nextafterf, a call: this runs at every hit of the
// screen. Nor by a branch: every other value is rounded up.
FT_SHARED inline float float_below(double value) {
  float rounded = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &rounded, sizeof bits);
  const uint32_t next = bits << 1 == 0 ? 0x80000001u : bits & 0x80000000u ? bits + 1 : bits - 1;
  bits = static_cast<double>(rounded) > value ? next : bits;
  std::memcpy(&rounded, &bits, sizeof rounded);
  return rounded;
}
FT_SHARED inline float float_above(double value) { return -float_below(-value); }

// The scan tests  sign * dot >= key_of_candidate + threshold_of_anchor  in float32, and must not fail where
// anchor + candidate - sign * dot <= best  holds. Both terms are rounded down and their sum to nearest. Rounding is
// monotone: a sum that is at most the float32 number `dot` stays so. Only the subtraction in float64 can round up.
inline float candidate_key(double candidate) { return float_below(candidate); }

// Finite where nothing has been seen yet: added to the infinite key of a row that is no candidate it must stay
// infinite.
inline float anchor_threshold(double anchor, double best) {
  constexpr double kLowest = -std::numeric_limits<float>::max();
  return float_below(std::max(anchor - best - 0x1p-52 * (std::fabs(anchor) + std::fabs(best)), kLowest));
}

}  // namespace fasttriplet
