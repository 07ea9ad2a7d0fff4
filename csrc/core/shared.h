// Marks a function that the host and the device both compile.
#pragma once

#ifdef __CUDACC__
#define FT_SHARED __host__ __device__
#else
#define FT_SHARED
#endif
