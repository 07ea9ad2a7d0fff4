// Whether this process may use AMX tiles.
#pragma once

namespace fasttriplet::cpu {

// True where the CPU has AMX-TILE and AMX-BF16 and the kernel lets this process use their registers. Since those are
// 8 KB of state, Linux (5.16 and later) must be asked for them. Asking is done once, for the whole process and for
// threads to come.
bool amx_permitted();

}  // namespace fasttriplet::cpu
