// What the bindings of the kernels share: tiers by name, threads without PyTorch, batches from arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "amx_emulator.h"
#include "cpu/isa/isa.h"
#include "cpu/rows/batch.h"
#include "cpu/threads/parallel.h"

namespace py = pybind11;

namespace fasttriplet::cpu {

// The AMX tiers where the CPU lacks nothing else of them: their own instructions can be emulated.
inline const std::vector<const Tier*>& emulated_tiers() {
  static const std::vector<const Tier*> emulated = []() -> std::vector<const Tier*> {
#if defined(__x86_64__)
    const std::vector<std::string> tiers = tiers_available();
    const auto has = [&](const char* name) { return std::find(tiers.begin(), tiers.end(), name) != tiers.end(); };
    if (!has(kAmxTier.name) && has(kAvx512Tier.name) && testing::install_amx_emulator())
      return {&kAmxTier, &kAmxBf16x2Tier};
#endif
    return {};
  }();
  return emulated;
}

inline const Tier& tier_to_test(const std::string& name) {
  for (const Tier* tier : emulated_tiers())
    if (name == tier->name) return *tier;
  return tier_named(name);
}

inline std::vector<std::string> tiers_to_test() {
  std::vector<std::string> tiers;
  for (const Tier* tier : emulated_tiers()) tiers.emplace_back(tier->name);
  for (const std::string& tier : tiers_available()) tiers.push_back(tier);
  return tiers;
}

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

class StdParallel : public Parallel {
 public:
  explicit StdParallel(int64_t threads) : threads_(threads) {}
  int64_t threads() const override { return threads_; }
  void run(int64_t workers, const std::function<void()>& body) const override {
    std::vector<std::thread> others;
    for (int64_t k = 1; k < workers; ++k) others.emplace_back(body);
    body();
    for (std::thread& other : others) other.join();
  }

 private:
  int64_t threads_;
};

template <typename T>
Batch<T> batch_of(const Array<T>& rows, int distance, const std::string& tier) {
  if (rows.ndim() != 2)
    throw std::invalid_argument("rows must have shape [N, D]; got " + std::to_string(rows.ndim()) + " dimensions");
  return {rows.data(), rows.shape(0), rows.shape(1), static_cast<Distance>(distance), tier_to_test(tier)};
}

void bind_family(py::module_& m);
void bind_neighbours(py::module_& m);
void bind_triplets(py::module_& m);

}  // namespace fasttriplet::cpu
