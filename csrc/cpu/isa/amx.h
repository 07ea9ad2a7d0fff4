// Whether this process may use AMX tiles.
#pragma once

namespace fasttriplet::cpu {

// True where the CPU has AMX-TILE and AMX-BF16 and the kernel lets this process use their registers. It must be asked
// for (Linux 5.16 and later) since the registers are 8 KB of state; asking is for the whole process, threads to come
// among it, and done once.
bool amx_permitted();

}  // namespace fasttriplet::cpu
