// The instruction-set tiers of this library, those this CPU can run, and the one chosen.
//
// The choice is made once, at the first call: the best available tier, or the one the environment variable
// FASTTRIPLET_ISA names.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels/tier.h"

namespace fasttriplet::cpu {

extern const Tier kPortableTier;
#if defined(__x86_64__)
extern const Tier kAvx2Tier;
extern const Tier kAvx512Tier;
extern const Tier kAvx512Int16Tier;
extern const Tier kAvx512VnniTier;
extern const Tier kAmxBf16x2Tier;
extern const Tier kAmxTier;
#endif

// Names, best first.
std::vector<std::string> tiers_built();
std::vector<std::string> tiers_available();

// Throws std::invalid_argument, naming those available, where the CPU lacks the tier or there is none of that name.
const Tier& tier_named(const std::string& name);

// Throws likewise where FASTTRIPLET_ISA names a missing tier.
const Tier& chosen_tier();
// The same to mine batch-hard in a batch of `rows`, unless it was chosen for being the best and another is better for
// few rows.
const Tier& tier_for_batch_hard(int64_t rows);

// The tier to scan with, in place of `tier`, where a threshold amid the distances is asked about. There bfloat16 and
// int8 would leave hundreds of columns a question: two bfloat16 an entry, or int16.
const Tier& threshold_tier(const Tier& tier);

}  // namespace fasttriplet::cpu
