// Forced inlining: an intrinsic's wrapper must become part of the caller, whose region sets the instruction set.
#pragma once

#define FT_INLINE inline __attribute__((always_inline))
#define FT_INLINE_LAMBDA __attribute__((always_inline))

// A region whose functions are compiled for an instruction set: FT_TARGET_BEGIN("avx2,fma") ... FT_TARGET_END.
// Include every header above the region. Nothing from the standard library may be instantiated inside it: the linker
// could keep that copy for callers on older CPUs.
#define FT_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FT_TARGET_BEGIN(isa) FT_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define FT_TARGET_END _Pragma("clang attribute pop")
#else
#define FT_TARGET_BEGIN(isa) _Pragma("GCC push_options") FT_PRAGMA(GCC target(isa))
#define FT_TARGET_END _Pragma("GCC pop_options")
#endif
