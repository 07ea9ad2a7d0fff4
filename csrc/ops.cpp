// The operators that the CPU library alone has, and their schemas. Those of the losses are declared in
// fasttriplet/schemas.py, since they exist without a compiled library too; each device registers its kernels for them.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(fasttriplet, m) {
  // seconds [5] float64 of the stages prepare, positives, screen, settle, write; counts [3] int64 of rows screened,
  // exact scores for negatives, exact scores for positives. For benchmarks.
  m.def("_mine_batch_hard_profile(Tensor embeddings, Tensor labels, int distance) -> (Tensor, Tensor)");
  // Lines of key=value about this library and the CPU.
  m.def("_build_info() -> str");
}
