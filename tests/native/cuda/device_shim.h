// The device's names (csrc/cuda/device.cuh) on the host: the kernels' own source runs here, a fiber a thread, so that
// it can be tested where there is no GPU, under sanitizers too.
//
// Threads of a block take turns in an order drawn from a seed, one warp as far behind the others as can be, and stop
// only where they wait for each other. What a warp does together happens when its last lane has come; a lane that never
// comes, lanes that meet in different operations and threads that leave while others wait are errors. Background copies
// are done either at once or only when they are waited for: a real device does them somewhere between. Blocks run one
// after the other, in an order drawn as well, the blocks of a cluster together.
//
// Fragments of matrices lie in the lanes as "Matrix fragments for mma.m16n8k16" and "ldmatrix" of the PTX ISA say;
// test_cuda_shim.py checks that against tables of its own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#define FT_DEVICE inline

namespace fasttriplet::cuda {
namespace shim {

// A place in the kernels' source where threads wait; faults are injected by place.
struct Site {
  const char* file;
  int line;
};

struct Position {
  int thread;
  int64_t block, blocks;
  char* shared;
};
extern Position position;  // of the thread that runs

// A warp's operation: `own` is what this lane brings and takes away, `combine` works on those of all 32 lanes.
void meet(const char* operation, void* own, void (*combine)(void* const lanes[32]));
bool wait_for_block(bool value, Site site);
bool last_of_blocks(uint32_t* arrived, uint32_t blocks);
int cluster_rank();
void wait_for_cluster(Site site);
void wait_for_warp(Site site);
void copy(void* shared, const void* global, int bytes);
void commit_copies();
void start_arrivals(uint64_t* barrier, int count);
void end_arrivals(uint64_t* barrier);
void arrive_at(uint64_t* barrier, int rank);
void expect_arrivals(uint64_t* barrier, int bytes);
void wait_for_arrivals(uint64_t* barrier, int parity, Site site);
void multiply_by_group(float* sum, int columns, const void* a, const void* b);
void commit_group();
void wait_for_group(int pending, Site site);
void wait_for_copies(int pending, Site site);

// Own::combine says what the warp does together.
template <typename Own>
inline void meet_as(const char* operation, Own& own) {
  meet(operation, &own, [](void* const lanes[32]) { Own::combine(reinterpret_cast<Own* const*>(lanes)); });
}

// What was there before.
template <typename T>
inline T replace(T* target, T value) {
  const T before = *target;
  *target = value;
  return before;
}

// a + b rounded to nearest is at most half a step off; the larger less the sum is exact (Dekker) and says to which
// side.
inline float add_toward(float a, float b, float direction) {
  const float sum = a + b;
  if (!std::isfinite(sum) || !std::isfinite(a) || !std::isfinite(b)) return sum;
  if (std::fabs(a) < std::fabs(b)) std::swap(a, b);
  const double error = (static_cast<double>(a) - static_cast<double>(sum)) + static_cast<double>(b);
  if ((direction < 0 && error < 0) || (direction > 0 && error > 0)) return std::nextafter(sum, direction);
  return sum;
}

}  // namespace shim

inline int thread_index() { return shim::position.thread; }
inline int lane_index() { return thread_index() % 32; }
inline int warp_index() { return thread_index() / 32; }
inline int64_t block_index() { return shim::position.block; }
inline int64_t block_count() { return shim::position.blocks; }
inline char* shared_memory() { return shim::position.shared; }

inline void block_barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  shim::wait_for_block(false, {file, line});
}
inline bool block_any(bool value, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return shim::wait_for_block(value, {file, line});
}
inline void warp_barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  shim::wait_for_warp({file, line});
}

inline bool last_of_blocks(uint32_t* arrived, uint32_t blocks) { return shim::last_of_blocks(arrived, blocks); }

inline bool warp_any(bool value) {
  struct Own {
    bool value, result;
    static void combine(Own* const* lanes) {
      bool any = false;
      for (int l = 0; l < 32; ++l) any |= lanes[l]->value;
      for (int l = 0; l < 32; ++l) lanes[l]->result = any;
    }
  } own = {value, false};
  shim::meet_as("warp_any", own);
  return own.result;
}

template <typename T>
inline T shuffle_xor(T value, int stride) {
  struct Own {
    T value, result;
    int source;
    static void combine(Own* const* lanes) {
      for (int l = 0; l < 32; ++l) lanes[l]->result = lanes[lanes[l]->source]->value;
    }
  } own = {value, value, lane_index() ^ stride};
  shim::meet_as("shuffle_xor", own);
  return own.result;
}

// One thread runs at a time.
inline uint32_t atomic_min(uint32_t* target, uint32_t value) {
  return shim::replace(target, value < *target ? value : *target);
}
template <typename T>
inline T atomic_max(T* target, T value) {
  return shim::replace(target, value > *target ? value : *target);
}
inline uint32_t atomic_add(uint32_t* target, uint32_t value) { return shim::replace(target, *target + value); }
inline uint64_t atomic_add(uint64_t* target, uint64_t value) { return shim::replace(target, *target + value); }
inline uint64_t compare_and_swap(uint64_t* target, uint64_t expected, uint64_t value) {
  return shim::replace(target, *target == expected ? value : *target);
}
template <typename T>
inline T load_fresh(const T* from) {
  return *from;
}

inline int worked_out_here(int value) { return value; }

template <typename To, typename From>
inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &value, sizeof to);
  return to;
}
inline uint32_t float_bits(float value) { return bits_as<uint32_t>(value); }
inline float bits_float(uint32_t bits) { return bits_as<float>(bits); }
inline uint64_t double_bits(double value) { return bits_as<uint64_t>(value); }

inline int lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }

inline float add_down(float a, float b) { return shim::add_toward(a, b, -std::numeric_limits<float>::infinity()); }
inline float add_up(float a, float b) { return shim::add_toward(a, b, std::numeric_limits<float>::infinity()); }
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }

inline void copy_async(void* shared, const void* global, int bytes) { shim::copy(shared, global, bytes); }
inline void copy_async_commit() { shim::commit_copies(); }
template <int kPending>
inline void copy_async_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  shim::wait_for_copies(kPending, {file, line});
}

// A matrix that the copy engine takes boxes of 128 rows x 64 entries from.
struct TileMap {
  const uint16_t* entries;  // [n, depth]
  int64_t n;
  int depth;
};

namespace shim {
void copy_box(char* shared, const TileMap& map, int k, int row, uint64_t* barrier, bool to_both);
}  // namespace shim

inline bool has_warpgroups() { return true; }
inline int cluster_rank() { return shim::cluster_rank(); }
inline void cluster_barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  shim::wait_for_cluster({file, line});
}
inline void arrival_start(uint64_t* barrier, int count) { shim::start_arrivals(barrier, count); }
inline void arrive_at(uint64_t* barrier, int rank) { shim::arrive_at(barrier, rank); }
inline void arrival_end(uint64_t* barrier) { shim::end_arrivals(barrier); }
inline void arrival_expect(uint64_t* barrier, int bytes) { shim::expect_arrivals(barrier, bytes); }
inline void arrival_wait(uint64_t* barrier, int parity, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  shim::wait_for_arrivals(barrier, parity, {file, line});
}
inline void fence_async() {}  // memory is one here
inline void copy_box(void* shared, const TileMap& map, int k, int row, uint64_t* barrier) {
  shim::copy_box(static_cast<char*>(shared), map, k, row, barrier, false);
}
inline void copy_box_to_both(void* shared, const TileMap& map, int k, int row, uint64_t* barrier) {
  shim::copy_box(static_cast<char*>(shared), map, k, row, barrier, true);
}
inline void group_begin() {}
template <int kColumns>
inline void hold_sums(float (&)[2][kColumns]) {}
template <int kColumns>
inline void group_multiply_add(float (&sum)[2][kColumns], const void* a, const void* b) {
  shim::multiply_by_group(&sum[0][0], 4 * kColumns, a, b);
}
inline void group_commit() { shim::commit_group(); }
template <int kPending>
inline void group_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  shim::wait_for_group(kPending, {file, line});
}

inline void load_matrices(uint32_t (&words)[4], const void* shared_row) {
  struct Own {
    uint32_t* words;
    const char* row;
    static void combine(Own* const* lanes) {
      for (int matrix = 0; matrix < 4; ++matrix)
        for (int l = 0; l < 32; ++l)  // row l / 4 of the matrix, its entries 2 (l % 4) and the next
          std::memcpy(&lanes[l]->words[matrix], lanes[matrix * 8 + l / 4]->row + l % 4 * 4, 4);
    }
  } own = {words, static_cast<const char*>(shared_row)};
  shim::meet_as("load_matrices", own);
}

namespace shim {

// sum + products as the least precise tensor core that core/bound.h allows for: every addend cut off one unit below the
// last place of the largest, and their sum in its own.
inline float add_as_tensor_core(float sum, const double (&products)[16]) {
  double largest = std::fabs(static_cast<double>(sum));
  for (const double product : products) largest = std::fmax(largest, std::fabs(product));
  if (largest == 0) return sum;
  const double unit = std::scalbn(1.0, std::ilogb(largest) - 23);
  double total = std::trunc(static_cast<double>(sum) / unit) * unit;
  for (const double product : products) total += std::trunc(product / unit) * unit;
  const float rounded = static_cast<float>(total);
  return std::fabs(static_cast<double>(rounded)) > std::fabs(total) ? std::nextafter(rounded, 0.0f) : rounded;
}

}  // namespace shim

inline void multiply_add_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Own {
    float* sum;
    const uint32_t* a;
    uint32_t b[2];
    static void combine(Own* const* lanes) {
      float x[16][16], y[16][8];  // a by row and depth, b by depth and column
      const auto entry = [](uint32_t word, int e) { return bits_float(e == 0 ? word << 16 : word & 0xffff0000u); };
      for (int l = 0; l < 32; ++l)
        for (int e = 0; e < 2; ++e) {
          const int group = l / 4, pair = l % 4 * 2 + e;
          for (int w = 0; w < 4; ++w) x[group + w % 2 * 8][pair + w / 2 * 8] = entry(lanes[l]->a[w], e);
          for (int w = 0; w < 2; ++w) y[pair + w * 8][group] = entry(lanes[l]->b[w], e);
        }
      for (int l = 0; l < 32; ++l)
        for (int s = 0; s < 4; ++s) {
          const int row = l / 4 + s / 2 * 8, column = l % 4 * 2 + s % 2;
          double products[16];
          for (int k = 0; k < 16; ++k) products[k] = static_cast<double>(x[row][k]) * static_cast<double>(y[k][column]);
          lanes[l]->sum[s] = shim::add_as_tensor_core(lanes[l]->sum[s], products);
        }
    }
  } own = {sum, a, {b0, b1}};
  shim::meet_as("multiply_add_bf16", own);
}

}  // namespace fasttriplet::cuda
