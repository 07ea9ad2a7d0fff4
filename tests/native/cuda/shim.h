// Runs grids of fibers (device_shim.h), with faults on demand, and stands in for the GPU in the engine.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/device.cuh"
#include "cuda/memory.cuh"
#include "cuda/prepare.cuh"

namespace fasttriplet::cuda::shim {

struct Settings {
  uint64_t seed = 0;
  bool deferred_copies = false;    // done when waited for, instead of at once
  bool deferred_products = false;  // likewise of those of four warps
  int64_t processors = 2, float64_ratio = 2;
  int64_t small_batch =
      0;  // of the engine: here too few rows to be one, so that small batches go all the ways of large ones
  // Faults, to see that they are noticed: "file:line" of a wait that is left out, or, where groups of copies or of
  // products are waited for, leaves one group more; a factor on the screen's error bound.
  std::string broken_site;
  double bound_factor = 1;
};

// Where threads waited in the runs so far, as "file:line", parted by what they waited for.
struct Sites {
  std::vector<std::string> block, warp, copies, arrivals, groups;
};

// As the launch of a kernel: `cluster` blocks at a time.
struct Grid {
  int64_t blocks;
  int threads, shared_bytes, cluster;
};
void run_grid(const Settings& settings, const Grid& grid, void (*body)(const void*), const void* kernel);
Sites& sites();
// How often single threads have waited at each place since this was asked last.
std::map<std::string, int64_t> take_waits();

// Scratch in pieces of their own, so that the address sanitizer sees their ends, full of rubbish.
class HostMemory : public Memory {
 private:
  void* take_bytes(size_t bytes) override {
    pieces_.emplace_back(new char[bytes]);
    std::memset(pieces_.back().get(), 0xa5, bytes);
    return pieces_.back().get();
  }
  std::vector<std::unique_ptr<char[]>> pieces_;
};

// What the engine has asked of a device so far.
struct Asked {
  int64_t launches = 0, clears = 0, sorts = 0;
};

// The engine's device.
class HostDevice {
 public:
  explicit HostDevice(const Settings& settings) : settings_(settings) {}

  template <typename Kernel>
  void launch(Kernel kernel, int64_t blocks) {
    ++asked_.launches;
    if constexpr (std::is_same_v<Kernel, SetTerms>) {
      kernel.product_error *= settings_.bound_factor;
      kernel.state->rho[kernel.round] *= settings_.bound_factor;
    }
    run_grid(
        settings_, {blocks, Kernel::kThreads, kSharedBytesOf<Kernel>, kClusterBlocksOf<Kernel>},
        [](const void* argument) { (*static_cast<const Kernel*>(argument))(); }, &kernel);
    ++settings_.seed;
  }
  void clear(void* pointer, size_t bytes) {
    ++asked_.clears;
    std::memset(pointer, 0, bytes);
  }
  int64_t processors() const { return settings_.processors; }
  int64_t float64_ratio() const { return settings_.float64_ratio; }
  const Asked& asked() const { return asked_; }
  static TileMap tile_map(const BFloat16* entries, int64_t n, int depth) {
    return {reinterpret_cast<const uint16_t*>(entries), n, depth};
  }
  size_t sort_bytes(int64_t) const { return 1; }
  void sort(const uint64_t* keys, uint64_t* sorted_keys, const int32_t* values, int32_t* sorted_values, int64_t n,
            int bits, char*, size_t) {
    ++asked_.sorts;
    std::vector<int64_t> places(n);
    std::iota(places.begin(), places.end(), 0);
    std::stable_sort(places.begin(), places.end(),
                     [&](int64_t a, int64_t b) { return (keys[a] << (64 - bits)) < (keys[b] << (64 - bits)); });
    for (int64_t k = 0; k < n; ++k) {
      sorted_keys[k] = keys[places[k]];
      sorted_values[k] = values[places[k]];
    }
  }

 private:
  Settings settings_;
  Asked asked_;
};

}  // namespace fasttriplet::cuda::shim
