// Stable sorting by key, and the classes in sorted labels.
#pragma once

#include "cuda/state.cuh"

namespace fasttriplet::cuda {

// Up to this many keys are ranked by counting, in one launch of n^2 comparisons; more are left to a radix sort, which
// has twenty. A comparison of 32-bit words takes two integer instructions, 64 lanes a cycle and multiprocessor: 2048
// keys take 2.1k cycles in 64 blocks, 8192 keys 16k cycles on 132 multiprocessors; of 64-bit words, three instructions.
inline constexpr int64_t kRankedKeys = 8192;

// Keys that lie in memory; what RankKeys asks of keys.
struct GivenKeys {
  const uint64_t* keys;  // [N]

  FT_DEVICE uint64_t key(int64_t i) const { return keys[i]; }
  FT_DEVICE void keep(int64_t, uint64_t) const {}  // called once for every key
};

// order[rank of i] = i, equal keys by index; N is at most kRankedKeys. A warp ranks kOwn keys, and its lanes share the
// others out. Tiles of them lie in shared memory, as 32-bit words where all have the same upper halves (labels that
// count classes, targets of edges), which spares a third of the instructions; the next tile is loaded meanwhile.
template <typename Source>
struct RankKeys {
  // Four keys a warp: a load from shared memory serves as many comparisons. 32 keys a block: 64 blocks for 2048 keys,
  // two a multiprocessor for 8192, with 8 loads a thread and tile in flight. 122 registers on sm_90a let two run at
  // once; to demand that by kMinBlocks spills on sm_100 and sm_120.
  static constexpr int kThreads = 256, kMinBlocks = 1, kOwn = 4, kKeys = kThreads / kWarp * kOwn;
  static constexpr int kTile = 2048, kLoads = kTile / kThreads;
  static constexpr int kSharedBytes = kTile * static_cast<int>(sizeof(uint64_t));
  static_assert(kKeys == kWarp, "a block's own keys are one key a lane");
  Source source;
  int n;
  int32_t* order;  // [N]

  FT_DEVICE void operator()() const {
    for (int64_t first = block_index() * kKeys; first < n; first += block_count() * kKeys)
      rank_block(static_cast<int>(first));
  }

 private:
  // Key i, or, beyond the last, that one: it is loaded with the others and counts nowhere.
  FT_DEVICE uint64_t key(int i) const { return source.key(i < n ? i : n - 1); }

  FT_DEVICE void load(int begin, uint64_t (&keys)[kLoads]) const {
#pragma unroll
    for (int e = 0; e < kLoads; ++e) keys[e] = key(begin + e * kThreads + thread_index());
  }

  FT_DEVICE void rank_block(int first) const {
    const int own_first = first + warp_index() * kOwn;
    uint64_t loaded[kLoads], own[kOwn];
    int rank[kOwn] = {};
    load(0, loaded);
#pragma unroll
    for (int q = 0; q < kOwn; ++q) own[q] = key(own_first + q);
    const uint64_t upper = key(0) >> 32;
    if (thread_index() < kKeys && first + thread_index() < n)
      source.keep(first + thread_index(), key(first + thread_index()));
    bool own_differ = false;
#pragma unroll
    for (int q = 0; q < kOwn; ++q) own_differ = own_differ || own[q] >> 32 != upper;
    for (int begin = 0; begin < n; begin += kTile) {
      bool differ = own_differ;
#pragma unroll
      for (int e = 0; e < kLoads; ++e) differ = differ || loaded[e] >> 32 != upper;
      if (block_any(differ))
        compare<uint64_t>(begin, first, own, loaded, rank);
      else
        compare<uint32_t>(begin, first, own, loaded, rank);
    }
#pragma unroll
    for (int q = 0; q < kOwn; ++q) {
      for (int stride = kWarp / 2; stride > 0; stride /= 2) rank[q] = rank[q] + shuffle_xor(rank[q], stride);
      if (lane_index() == q && own_first + q < n) order[rank[q]] = own_first + q;
    }
  }

  // Puts the tile that starts with key `begin` into shared memory, loads the next and compares.
  template <typename Word>
  FT_DEVICE void compare(int begin, int first, const uint64_t (&own)[kOwn], uint64_t (&loaded)[kLoads],
                         int (&rank)[kOwn]) const {
    Word* const tile = reinterpret_cast<Word*>(shared_memory());
#pragma unroll
    for (int e = 0; e < kLoads; ++e) tile[e * kThreads + thread_index()] = static_cast<Word>(loaded[e]);
    block_barrier();
    if (begin + kTile < n) load(begin + kTile, loaded);
    Word words[kOwn];
#pragma unroll
    for (int q = 0; q < kOwn; ++q) words[q] = static_cast<Word>(own[q]);
    // In steps of a key a lane, of which one holds the block's own keys: of equal keys all before it go first.
    const int length = n - begin < kTile ? n - begin : kTile, place = first - begin;
    const int own_step = place < 0 ? 0 : place < length ? place : length;
    const int behind = place < 0 ? 0 : place < length ? place + kWarp : length;
    count(tile, 0, own_step, words, rank, [](Word other, Word word) { return other <= word; });
    if (own_step < behind && own_step + lane_index() < length) {
      const Word other = tile[own_step + lane_index()];
#pragma unroll
      for (int q = 0; q < kOwn; ++q) {
        const bool goes_first = lane_index() < warp_index() * kOwn + q;
        rank[q] += goes_first ? other <= words[q] : other < words[q];
      }
    }
    count(tile, behind, length, words, rank, [](Word other, Word word) { return other < word; });
  }

  template <typename Word, typename Before>
  static FT_DEVICE void count(const Word* tile, int begin, int end, const Word (&words)[kOwn], int (&rank)[kOwn],
                              Before&& before) {
#pragma unroll 4
    for (int k = begin + lane_index(); k < end; k += kWarp) {
      const Word other = tile[k];
#pragma unroll
      for (int q = 0; q < kOwn; ++q) rank[q] += before(other, words[q]);
    }
  }
};

// 0, 1, 2, ...: what a radix sort carries along.
struct CountUp {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  int32_t* values;  // [N]
  int64_t n;

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_thread<CountUp>();
    for (int64_t i = walk.first; i < n; i += walk.stride) values[i] = static_cast<int32_t>(i);
  }
};

// A class is known by its first position: ascending in sorted order.
struct FindClasses {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  // A bisection is 2 log2 N trips to memory, one after the other; most batches' classes end within eight positions on
  // either side, whose orders, and then labels, are loaded together.
  static constexpr int kNear = 8, kSeen = 2 * kNear + 1;
  const uint64_t* labels;  // [N]
  const int32_t* order;    // [N]
  const uint8_t* finite;   // [N] by row
  int64_t n;
  int32_t* begin;        // [N] by position
  int32_t* end;          // [N] by position
  Lowest* bad_of_class;  // [N] by class, zero at first: its lowest row that is not finite
  State* state;

  FT_DEVICE void operator()() const {
    const Walk walk = walk_by_thread<FindClasses>();
    for (int64_t r = walk.first; r < n; r += walk.stride) {
      int32_t row[kSeen];
      uint64_t seen[kSeen];
#pragma unroll
      for (int k = 0; k < kSeen; ++k) {
        const int64_t at = r + k - kNear;
        row[k] = order[at < 0 ? 0 : at < n ? at : n - 1];
      }
#pragma unroll
      for (int k = 0; k < kSeen; ++k) seen[k] = labels[row[k]];
      const int64_t i = row[kNear], class_begin = find_end<-1>(r, seen) + 1;
      const uint64_t label = seen[kNear];
      begin[r] = static_cast<int32_t>(class_begin);
      end[r] = static_cast<int32_t>(find_end<1>(r, seen));
      if (state->bad_rows == 0) continue;
      if (!finite[i]) {
        bad_of_class[class_begin].offer(i, n);
        if (label != labels[state->bad.get(n)]) state->bad_of_other_class.offer(i, n);
      }
      if (label != labels[0]) state->other_class.offer(i, n);
    }
  }

 private:
  // The first position from r on, upwards or downwards, that is not of its class: n or -1 where all are.
  template <int kStep>
  FT_DEVICE int64_t find_end(int64_t r, const uint64_t (&seen)[kSeen]) const {
    const uint64_t label = seen[kNear];
    // Without branches: the compiler would move each load behind the one before it.
    int64_t length = 0;
    bool inside = true;
#pragma unroll
    for (int k = 1; k <= kNear; ++k) {
      const int64_t at = r + k * kStep;
      inside = inside & (at >= 0) & (at < n) & (seen[kNear + k * kStep] == label);
      length += inside;
    }
    if (!inside) return r + (length + 1) * kStep;
    int64_t in = r + kNear * kStep, out = kStep > 0 ? n : -1;
    while (out - in != kStep) {
      const int64_t middle = in + (out - in) / 2;
      if (labels[order[middle]] == label)
        in = middle;
      else
        out = middle;
    }
    return out;
  }
};

}  // namespace fasttriplet::cuda
