// The rows as the screen multiplies them: in class order, centred, scaled, rounded to bfloat16 or float32; and each
// row's share of the bound (core/bound.h).
#pragma once

#include "core/options.h"
#include "core/prepare.h"
#include "cuda/state.cuh"

namespace fasttriplet::cuda {

// Entries as 16-bit words.
struct BFloat16 {
  uint16_t bits;

  static FT_DEVICE BFloat16 round(float value) {  // to nearest, ties to even; value is finite
    const uint32_t word = float_bits(value);
    return {static_cast<uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16)};
  }
  FT_DEVICE float value() const { return bits_float(static_cast<uint32_t>(bits) << 16); }
};

struct Float32 {
  float entry;

  static FT_DEVICE Float32 round(float value) { return {value}; }
  FT_DEVICE float value() const { return entry; }
};

// Centre and scale, one block: nine rows of the batch and a few sums.
template <typename T>
struct ChooseCentre {
  static constexpr int kThreads = 512, kMinBlocks = 1, kSamples = kCentreSamples;
  static constexpr int kSums = 2 * kSamples + 2;  // squares, centred squares, the centre's square, its largest entry
  static constexpr int kSharedBytes = kThreads / kWarp * kSums * static_cast<int>(sizeof(double));
  const T* rows;  // [N, D]
  int64_t n, d;
  const double* factors;  // [N] or null
  const uint8_t* finite;  // [N]
  double* centre;         // [D]
  State* state;

  FT_DEVICE void operator()() const {
    double (*const sums)[kSums] = reinterpret_cast<double (*)[kSums]>(shared_memory());
    double own[kSums] = {}, factor[kSamples];
    const T* sample[kSamples];
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
      const int64_t i = centre_sample(s, n);
      sample[s] = rows + i * d;
      factor[s] = !finite[i] ? 0 : factors != nullptr ? factors[i] : 1;
    }
    for (int64_t k = thread_index(); k < d; k += kThreads) {
      double x[kSamples];
#pragma unroll
      for (int s = 0; s < kSamples; ++s) x[s] = factor[s] == 0 ? 0 : static_cast<double>(sample[s][k]) * factor[s];
      const double c = centre[k] = centre_entry(x);
#pragma unroll
      for (int s = 0; s < kSamples; ++s) {
        own[s] = own[s] + x[s] * x[s];
        own[kSamples + s] = own[kSamples + s] + (x[s] - c) * (x[s] - c);
      }
      own[2 * kSamples] = own[2 * kSamples] + c * c;
      own[2 * kSamples + 1] = larger_of(own[2 * kSamples + 1], c < 0 ? -c : c);
    }
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      for (int stride = kWarp / 2; stride > 0; stride /= 2) {
        const double other = shuffle_xor(own[s], stride);
        own[s] = s == kSums - 1 ? larger_of(own[s], other) : own[s] + other;
      }
      if (lane_index() == 0) sums[warp_index()][s] = own[s];
    }
    block_barrier();
    if (thread_index() != 0) return;
    for (int s = 0; s < kSums; ++s)
      for (int w = 1; w < kThreads / kWarp; ++w)
        sums[0][s] = s == kSums - 1 ? larger_of(sums[0][s], sums[w][s]) : sums[0][s] + sums[w][s];
    const bool centred = centre_pays(sums[0], sums[0] + kSamples);
    state->centred = centred;
    state->scale = scale_for(state->largest + (centred ? sums[0][kSums - 1] : 0));
    // Without a scale the squares may have overflowed; nothing is screened then.
    state->centre_norm = centred && state->scale != 0 ? sqrt(sums[0][2 * kSamples]) * state->scale : 0;
  }
};

// What is packed, and whether the round is needed: not where every anchor of the round before had lists that sufficed.
struct RoundCondition {
  const uint32_t* overflows;  // [kSearches] of the round before, or null: the first round

  FT_DEVICE bool holds() const { return overflows == nullptr || (overflows[kNearest] | overflows[kFarthest]) != 0; }
};

template <typename T, typename Entry>
struct PackRows {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  const T* rows;  // [N, D]
  int64_t n, d, depth;
  const int32_t* order;   // [N] row at each position
  const double* factors;  // [N] or null
  const uint8_t* finite;  // [N]
  const double* centre;   // [D]
  State* state;
  Round round;
  RoundCondition condition;
  Entry* packed;    // [N, depth], by position, zeros behind D
  RowNorms* norms;  // [N] by position

  FT_DEVICE void operator()() const {
    if (!condition.holds()) return;
    const Walk walk = walk_by_warp<PackRows>();
    const double scale = state->scale;
    const bool centred = state->centred != 0;
    double rho = 0;
    for (int64_t r = walk.first; r < n; r += walk.stride) {
      const int64_t i = order[r];
      const bool used = finite[i] && scale != 0;
      const double factor = factors != nullptr ? factors[i] : 1;
      double square = 0, residual = 0, centre_dot = 0;
      for (int64_t k = 2 * lane_index(); k < depth; k += 2 * kWarp) {
        Entry pair[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const bool inside = used && k + e < d;
          const double c = inside && centred ? centre[k + e] : 0;
          const double exact = inside ? (static_cast<double>(rows[i * d + k + e]) * factor - c) * scale : 0;
          pair[e] = Entry::round(static_cast<float>(exact));
          const double error = exact - static_cast<double>(pair[e].value());
          square = square + exact * exact;
          residual = residual + error * error;
          centre_dot = centre_dot + exact * (c * scale);
        }
        packed[r * depth + k] = pair[0];
        packed[r * depth + k + 1] = pair[1];
      }
      square = warp_sum(square);
      residual = sqrt(warp_sum(residual));
      centre_dot = warp_sum(centre_dot);
      RowNorms row = {square / 2, sqrt(square) + residual, residual, centre_dot};
      if (factors != nullptr && factor == 0) row.half_square = row.half_square + zero_row_half_square(scale);
      rho = larger_of(rho, row.residual / (row.norm + kTiny));
      if (lane_index() == 0) norms[r] = row;
    }
    if (lane_index() == 0 && rho > 0) atomic_maximum(&state->rho[round], rho);
  }
};

// ProductScale of core/bound.h, one block.
struct ChooseProductScale {
  static constexpr int kThreads = 256, kMinBlocks = 1, kLongest = kUnusualRows + 1;
  static constexpr int kSharedBytes = kThreads * kLongest * static_cast<int>(sizeof(double));
  const RowNorms* norms;  // [N]
  int64_t n, d;
  Round round;
  RoundCondition condition;
  State* state;

  FT_DEVICE void operator()() const {
    if (!condition.holds()) return;
    double* const lists = reinterpret_cast<double*>(shared_memory());  // [kThreads][kLongest], descending
    double own[kLongest] = {};
    for (int64_t r = thread_index(); r < n; r += kThreads) insert(own, norms[r].norm);
    for (int k = 0; k < kLongest; ++k) lists[thread_index() * kLongest + k] = own[k];
    block_barrier();
    if (thread_index() != 0) return;
    for (int t = kLongest; t < kThreads * kLongest; ++t) insert(own, lists[t]);
    state->product[round] = {usual_norm(own, n < kLongest ? n : kLongest), own[0], state->centre_norm, d};
  }

 private:
  static FT_DEVICE void insert(double (&list)[kLongest], double value) {
#pragma unroll
    for (int k = 0; k < kLongest; ++k) {
      const double larger = larger_of(list[k], value);
      value = smaller_of(list[k], value);
      list[k] = larger;
    }
  }
};

// One row's RowTerms in one search, as float32 numbers that are below or above the exact ones.
struct alignas(16) Terms {
  float anchor, anchor_upper;        // of the key's lower and upper end
  float candidate, candidate_upper;  // likewise; +infinity for what is no candidate
};

FT_DEVICE float infinity() { return bits_float(0x7f800000u); }

// Candidates an anchor keeps; those that its best has left behind give way (screen.cuh). bfloat16 leaves random unit
// vectors few in the mean, but their number grows with D and has a long tail, and one anchor that overflows has its
// whole tile multiplied again.
inline int list_length(int64_t d) { return d <= 256 ? 8 : d <= 1024 ? 16 : 32; }
inline constexpr uint64_t kEmptySlot = ~uint64_t{0};
// Nothing seen yet: a threshold made of it stays finite.
inline constexpr float kNothingSeen = 0x1p126f;

// An anchor's candidates in one search, by position.
struct Anchors {
  Terms* terms;        // [N]
  uint32_t* best;      // [N] ordered_bits of the smallest upper end seen
  uint64_t* slots;     // [N, length] ordered_bits of the key's lower end, and the candidate
  uint8_t* active;     // [N] still searches in this round
  uint8_t* overflown;  // [N] a candidate found no slot: the list does not suffice
  int length;
};

struct SetTerms {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  const RowNorms* norms;  // [N] by position
  int64_t n;
  const int32_t* order;
  const uint8_t* finite;  // [N] by row
  const int32_t* begin;   // [N] classes by position
  const int32_t* end;     // [N]
  Distance distance;
  double product_error;  // g of core/bound.h
  Round round;
  RoundCondition condition;
  State* state;
  PerSearch<Anchors> anchors;

  FT_DEVICE void operator()() const {
    if (!condition.holds()) return;
    const Walk walk = walk_by_thread<SetTerms>();
    const double share = kappa(state->rho[round], product_error);
    for (int64_t r = walk.first; r < n; r += walk.stride) {
      const bool used = finite[order[r]] != 0;
      const RowTerms nearest = distance == Distance::kInnerProduct
                                   ? product_terms(norms[r], share, state->product[round])
                                   : difference_terms(norms[r], share);
#pragma unroll
      for (int search = 0; search < kSearches; ++search) {
        const bool alone = search == kNearest ? end[r] - begin[r] == n : end[r] - begin[r] == 1;
        set(anchors[search], r, search == kNearest ? nearest : farthest(nearest), used && !alone, used);
      }
    }
  }

 private:
  FT_DEVICE void set(const Anchors& search, int64_t r, const RowTerms& row, bool is_anchor, bool is_candidate) const {
    search.terms[r] = {
        float_below(row.anchor),
        float_above(row.anchor + row.anchor_slack),
        is_candidate ? float_below(row.candidate) : infinity(),
        is_candidate ? float_above(row.candidate + row.candidate_slack) : infinity(),
    };
    const bool first_round = condition.overflows == nullptr;
    const bool searches = first_round ? is_anchor : search.overflown[r] != 0;
    search.active[r] = searches;
    search.overflown[r] = 0;
    if (!searches && !first_round) return;  // has what it needs from the round before
    // Nothing is taken over from there: a key's constant, which depends on the anchor's own error, is another.
    search.best[r] = ordered_bits(kNothingSeen);
    for (int k = 0; k < search.length; ++k) search.slots[r * search.length + k] = kEmptySlot;
  }
};

}  // namespace fasttriplet::cuda
