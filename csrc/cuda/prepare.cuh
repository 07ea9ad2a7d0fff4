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

// Centre and scale, for one block: nine rows of the batch and a few sums.
template <typename T>
struct ChooseCentre {
  static constexpr int kThreads = 256, kMinBlocks = 1, kSamples = kCentreSamples;
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
    const int s = thread_index();
    if (s < kSums)
      for (int w = 1; w < kThreads / kWarp; ++w)
        sums[0][s] = s == kSums - 1 ? larger_of(sums[0][s], sums[w][s]) : sums[0][s] + sums[w][s];
    block_barrier();
    if (thread_index() != 0) return;
    const bool centred = centre_pays(sums[0], sums[0] + kSamples);
    state->centred = centred;
    state->scale = scale_for(state->largest + (centred ? sums[0][kSums - 1] : 0));
    // Without a scale the squares may have overflowed; nothing is screened then.
    state->centre_norm = centred && state->scale != 0 ? sqrt(sums[0][2 * kSamples]) * state->scale : 0;
  }
};

// Whether a round is needed: the first one is, another where the one before has left more anchors than are cheaper to
// score exactly against everyone.
struct RoundCondition {
  const uint32_t* overflows;  // [kSearches] of the round before, or null: the first round
  uint32_t few;

  FT_DEVICE bool holds() const {
    return overflows == nullptr || static_cast<uint64_t>(overflows[kNearest]) + overflows[kFarthest] > few;
  }
};

// A random anchor has its row of tiles and its column of tiles multiplied in float32; from an eighth of all anchors on
// that are practically all tiles, N^2 D / 2 multiply-adds in all. An exact scan takes N D float64 differences, squares
// and sums, three operations at `ratio` of the cost: as much together where anchors are N / (4 ratio), the float32 tile
// running at two thirds of its peak. Machines for computing have a ratio of 2, others of 32 or 64.
inline uint32_t few_overflows(int64_t n, int64_t ratio) {
  return static_cast<uint32_t>(n / (4 * (ratio < 1 ? 1 : ratio)));
}

template <typename T, typename Entry>
struct PackRows {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  static constexpr int kAhead = 4;  // pairs of entries of a lane that are on their way at once
  const T* rows;                    // [N, D]
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
      for (int64_t base = 2 * lane_index(); base < depth; base += kAhead * 2 * kWarp) {
        T entries[kAhead][2];  // all on their way before the first is used: the stores might be to the same place
        double centres[kAhead][2];
#pragma unroll
        for (int a = 0; a < kAhead; ++a)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int64_t k = base + a * 2 * kWarp + e;
            entries[a][e] = used && k < d ? rows[i * d + k] : T(0);
            centres[a][e] = used && centred && k < d ? centre[k] : 0;
          }
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
          const int64_t k = base + a * 2 * kWarp;
          if (k >= depth) continue;
          Entry pair[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const double exact = (static_cast<double>(entries[a][e]) * factor - centres[a][e]) * scale;
            pair[e] = Entry::round(static_cast<float>(exact));
            const double error = exact - static_cast<double>(pair[e].value());
            square = square + exact * exact;
            residual = residual + error * error;
            centre_dot = centre_dot + exact * (centres[a][e] * scale);
          }
          packed[r * depth + k] = pair[0];
          packed[r * depth + k + 1] = pair[1];
        }
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

// ProductScale of core/bound.h: every block finds the longest of its rows, the last one those of all.
struct ChooseProductScale {
  static constexpr int kThreads = 256, kMinBlocks = 1, kLongest = kUnusualRows + 1;
  static constexpr int kRowsOfBlock = 4 * kThreads;  // at least
  static constexpr int kSharedBytes = kThreads * kLongest * static_cast<int>(sizeof(double));
  const RowNorms* norms;  // [N]
  int64_t n, d;
  Round round;
  RoundCondition condition;
  State* state;
  double* longest;  // [blocks, kLongest]

  FT_DEVICE void operator()() const {
    if (!condition.holds()) return;
    double own[kLongest] = {};  // descending
    const Walk walk = walk_by_thread<ChooseProductScale>();
    for (int64_t r = walk.first; r < n; r += walk.stride) insert(own, norms[r].norm);
    merge_in_block(own);
    if (thread_index() == 0)
#pragma unroll
      for (int k = 0; k < kLongest; ++k) longest[block_index() * kLongest + k] = own[k];
    if (!last_of_blocks(&state->scaled[round], static_cast<uint32_t>(block_count()))) return;
    double all[kLongest] = {};
    for (int64_t k = thread_index(); k < block_count() * kLongest; k += kThreads) insert(all, longest[k]);
    merge_in_block(all);
    if (thread_index() == 0)
      state->product[round] = {usual_norm(all, n < kLongest ? n : kLongest), all[0], state->centre_norm, d};
  }

 private:
  // Afterwards thread 0 has the longest of all threads' lists.
  static FT_DEVICE void merge_in_block(double (&own)[kLongest]) {
    double* const lists = reinterpret_cast<double*>(shared_memory());  // [kLongest][kThreads]
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (thread_index() >= half && thread_index() < 2 * half)
#pragma unroll
        for (int k = 0; k < kLongest; ++k) lists[k * kThreads + thread_index()] = own[k];
      block_barrier();
      if (thread_index() < half)
        for (int k = 0; k < kLongest; ++k) insert(own, lists[k * kThreads + thread_index() + half]);
    }
  }

  static FT_DEVICE void insert(double (&list)[kLongest], double value) {
    if (!(value > list[kLongest - 1])) return;  // nearly always
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
// vectors few in the mean, but their number grows with D and has a long tail, and an anchor that overflows is scored
// against everyone.
//
// In the tail of a batch the number of candidates within the bound of an anchor's best is about geometric. Of random
// unit vectors half of these lengths overflowed for 0.03 % of the anchors at 8192 x 128 and for 0.9 % at 1048576 x 128
// (simulated, at any time on the way), these for none.
inline int list_length(int64_t d) { return d <= 256 ? 16 : d <= 1024 ? 32 : 64; }
inline constexpr int kSlotsAtOnce = 4;  // read together, each being a trip to the second-level cache
inline constexpr uint64_t kEmptySlot = ~uint64_t{0};
// Nothing seen yet: a threshold made of it stays finite.
inline constexpr float kNothingSeen = 0x1p126f;

// An anchor's candidates in one search, by position.
struct Anchors {
  Terms* terms;         // [N]
  uint32_t* best;       // [N] ordered_bits of the smallest upper end seen
  uint64_t* slots;      // [N, length] ordered_bits of the key's lower end, and the candidate; filled from the front
  uint8_t* active;      // [N] still searches in this round
  uint32_t* overflown;  // [N] 1 where a candidate found no slot: the list does not suffice
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
  uint8_t* searching;  // [N / tile_size] of the round after the first: 1 where a row of the tile searches
  int tile_size;

  FT_DEVICE void operator()() const {
    if (!condition.holds()) return;
    const Walk walk = walk_by_thread<SetTerms>();
    const double share = kappa(state->rho[round], product_error);
    const bool first_round = condition.overflows == nullptr;
    for (int64_t r = walk.first; r < n; r += walk.stride) {
      if (first_round && r % tile_size == 0) searching[r / tile_size] = 0;
      const bool used = finite[order[r]] != 0;
      const RowTerms nearest = distance == Distance::kInnerProduct
                                   ? product_terms(norms[r], share, state->product[round])
                                   : difference_terms(norms[r], difference_error(norms[r], share));
#pragma unroll
      for (int search = 0; search < kSearches; ++search) {
        const bool alone = search == kNearest ? end[r] - begin[r] == n : end[r] - begin[r] == 1;
        const bool searches = first_round ? used && !alone : anchors[search].overflown[r] != 0;
        if (!first_round && searches) searching[r / tile_size] = 1;
        set(anchors[search], r, search == kNearest ? nearest : farthest(nearest), used, searches, first_round);
      }
    }
  }

 private:
  FT_DEVICE void set(const Anchors& search, int64_t r, const RowTerms& row, bool is_candidate, bool searches,
                     bool first_round) const {
    search.terms[r] = {
        float_below(row.anchor),
        float_above(row.anchor + row.anchor_slack),
        is_candidate ? float_below(row.candidate) : infinity(),
        is_candidate ? float_above(row.candidate + row.candidate_slack) : infinity(),
    };
    search.active[r] = searches;
    search.overflown[r] = 0;
    if (!searches && !first_round) return;  // has what it needs from the round before
    // Nothing is taken over from there: bounds of the other precision.
    search.best[r] = ordered_bits(kNothingSeen);
    for (int k = 0; k < search.length; ++k) search.slots[r * search.length + k] = kEmptySlot;
  }
};

}  // namespace fasttriplet::cuda
