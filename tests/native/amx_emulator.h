// Runs AMX instructions on CPUs that lack them: tests of the AMX tier need no such CPU.
#pragma once

#include <cstdint>

namespace fasttriplet::testing {

// From now on ldtilecfg, tilerelease, tilezero, tileloadd, tilestored and tdpbf16ps, which such a CPU refuses, are
// carried out by a signal handler, to the letter of Intel's manual; misuse (an unconfigured tile) ends the process.
// Returns false, and does nothing, where that cannot be done: not Linux on x86-64.
bool install_amx_emulator();

// Of the calling thread: whether tiles are configured, and how many tdpbf16ps it has carried out.
bool amx_tiles_configured();
int64_t amx_tile_products();

}  // namespace fasttriplet::testing
