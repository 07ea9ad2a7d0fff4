// Operator schemas, nothing else. Options are codes (core/options.h); each device registers its own kernels.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fasttriplet, m) {
  // distances [2, N] float64 (to the positive, to the negative), positives [N] int64, negatives [N] int64.
  m.def("mine_batch_hard(Tensor embeddings, Tensor labels, int distance) -> (Tensor, Tensor, Tensor)");
  // seconds [5] float64 of the stages prepare, positives, screen, settle, write; counts [3] int64 of rows screened,
  // exact scores for negatives, exact scores for positives. For benchmarks.
  m.def("_mine_batch_hard_profile(Tensor embeddings, Tensor labels, int distance) -> (Tensor, Tensor)");
  // loss [N] or []; values [3, N] float64: slopes d loss / d d_ap, distances to the positive and to the negative; pairs
  // [2, N] int64: positives, negatives. Few tensors, since each costs a call 2 us.
  m.def(
      "batch_hard_loss(Tensor embeddings, Tensor labels, float margin, int distance, bool soft_margin, int reduction, "
      "int on_missing) -> (Tensor, Tensor, Tensor)");
  // Gradient [N, D] of the embeddings.
  m.def(
      "_batch_hard_loss_backward(Tensor grad_loss, Tensor embeddings, Tensor values, Tensor pairs, int distance) -> "
      "Tensor");
  // Lines of key=value about this library and the CPU.
  m.def("_build_info() -> str");
}
