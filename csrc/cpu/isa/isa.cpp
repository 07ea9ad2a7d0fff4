#include "cpu/isa/isa.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "cpu/isa/amx.h"

namespace fasttriplet::cpu {
namespace {

struct Entry {
  const Tier* tier;
  // Whether the CPU has the instructions and the operating system saves their registers. Asked only where it matters,
  // since for AMX asking is a request to the kernel.
  bool (*available)();
};

#if defined(__x86_64__)
// __builtin_cpu_supports asks cpuid and, for the wide registers, xgetbv.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
bool has_amx() { return has_avx512() && amx_permitted(); }
bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif

// Best first.
const std::vector<Entry>& table() {
  static const std::vector<Entry> entries = {
#if defined(__x86_64__)
      {&kAmxTier, has_amx},
      {&kAmxBf16x2Tier, has_amx},
      {&kAvx512VnniTier, has_avx512vnni},
      {&kAvx512Int16Tier, has_avx512vnni},
      {&kAvx512Tier, has_avx512},
      {&kAvx2Tier, has_avx2},
#endif
      {&kPortableTier, [] { return true; }},
  };
  return entries;
}

std::vector<std::string> names(bool only_available) {
  std::vector<std::string> result;
  for (const Entry& entry : table())
    if (!only_available || entry.available()) result.emplace_back(entry.tier->name);
  return result;
}

}  // namespace

std::vector<std::string> tiers_built() { return names(false); }
std::vector<std::string> tiers_available() { return names(true); }

const Tier& tier_named(const std::string& name) {
  for (const Entry& entry : table())
    if (name == entry.tier->name && entry.available()) return *entry.tier;
  std::string available;
  for (const std::string& tier : tiers_available()) available += (available.empty() ? "" : ", ") + tier;
  throw std::invalid_argument("FASTTRIPLET_ISA must be one of the tiers this CPU can run (" + available + "); got '" +
                              name + "'");
}

namespace {

struct Choice {
  const Tier* tier;
  bool forced;
};

const Choice& choice() {
  static const Choice made = [] {
    const char* forced = std::getenv("FASTTRIPLET_ISA");
    if (forced != nullptr && *forced != '\0') return Choice{&tier_named(forced), true};
    const auto best =
        std::find_if(table().begin(), table().end(), [](const Entry& entry) { return entry.available(); });
    return Choice{best->tier, false};
  }();
  return made;
}

// Of fewer rows int8 costs more, for the candidates it leaves, than its products save: at D = 128 on a Zen 4 int16 took
// 0.96 of the time at 128 rows and 0.92 at 256, and the same at 512.
constexpr int64_t kLeastInt8Rows = 512;

}  // namespace

const Tier& chosen_tier() { return *choice().tier; }

const Tier& tier_for_batch_hard(int64_t rows) {
  const Choice& made = choice();
  const bool coarse = made.tier->layout.format == Format::kInt8 && rows < kLeastInt8Rows;
  return coarse && !made.forced ? *made.tier->finer : *made.tier;
}

const Tier& threshold_tier(const Tier& tier) {
  const Format format = tier.layout.format;
  return format == Format::kBfloat16 || format == Format::kInt8 ? *tier.finer : tier;
}

}  // namespace fasttriplet::cpu
