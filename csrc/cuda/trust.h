// Whether a device's tensor cores may be used: they must have passed a test on that very device, each kind its own.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace fasttriplet::cuda {

// mma.sync from sm_80 on; wgmma and the copy engine of sm_90a, by single blocks and by pairs of blocks.
enum class TensorCores { kWarp, kWarpgroup, kWarpgroupPair };

// What the test found: empty where the tensor cores multiply as expected, else what is wrong. Waits for the device.
std::string test_tensor_cores(int device, TensorCores kind);

// The largest error of a product in that test, as a share of what the bound allows.
double largest_error_share(int device, TensorCores kind);

// True once the test has passed, which is run at the first call on each device. While `stream` is being captured into a
// graph nothing can be waited for: then an untested device is not trusted yet.
bool tensor_cores_trusted(int device, TensorCores kind, cudaStream_t stream);

}  // namespace fasttriplet::cuda
