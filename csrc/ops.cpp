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
      "batch_hard_loss(Tensor embeddings, Tensor labels, float margin, int distance, bool soft_margin, int "
      "reduction, int on_missing) -> (Tensor, Tensor, Tensor)");
  // Gradient [N, D] of the embeddings.
  m.def(
      "_batch_hard_loss_backward(Tensor grad_loss, Tensor embeddings, Tensor values, Tensor pairs, int "
      "distance) -> Tensor");
  // `pairing` and `numbers`, here and below: who may pair with whom, see PairingTensors in check.h.
  // The mined triplets of a miner (core/options.h MinerKind, Otherwise): distances [2, T] float64 to the positive and
  // to the negative, NaN where there is none, and all NaN where a row that takes part is not finite; triplets [3, T]
  // int64: anchors, ascending, positives and negatives among the candidates, -1 where there is none.
  m.def(
      "mine_triplets(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor?[] pairing, int[] "
      "numbers, int distance, int miner, int otherwise, bool within_margin, float margin, int k, bool "
      "kth_only, float skip_fraction) -> (Tensor, Tensor)");
  // Gradients [N, D] of the embeddings and [M, D] of the references, [0] without any; grad [2, T] is that of distances.
  m.def(
      "_triplet_distances_backward(Tensor grad, Tensor embeddings, Tensor? ref_embeddings, Tensor distances, "
      "Tensor triplets, int distance) -> (Tensor, Tensor)");
  // Of what mine_triplets returned: loss [T] or [], float64; slopes [2, T] float64 of the loss by the distances, 0
  // where there is none. poison [] float64: NaN where a row that takes part is not finite.
  m.def(
      "triplet_losses(Tensor distances, Tensor triplets, Tensor poison, float margin, bool soft_margin, int "
      "reduction, int on_missing) -> (Tensor, Tensor)");
  // Of every triplet: sums [N] float64 of the losses, counts [2, N] int64 of active and of all triplets, both by
  // anchor; of each candidate how often it is the negative of an active one, [N or M] int64; gradients of the sums' sum
  // [N, D] and [M, D], [0] where not asked for or without references.
  m.def(
      "batch_all(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor?[] pairing, int[] numbers, "
      "int distance, float margin, bool soft_margin, bool with_gradient) -> (Tensor, Tensor, Tensor, Tensor, "
      "Tensor)");
  // Gradients [N, D] and [M, D], [0] without references; grad [N] is that of the sums.
  m.def(
      "_batch_all_backward(Tensor grad, Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor?[] "
      "pairing, int[] numbers, int distance, float margin, bool soft_margin) -> (Tensor, Tensor)");
  // values [8, N] float64: softmax-weighted mean distances to the positives and to the negatives, NaN where there is
  // none, and what their backward needs (cpu/dense/weighted.h).
  m.def(
      "weighted_distances(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor?[] pairing, int[] "
      "numbers, int distance) -> Tensor");
  // Gradients [N, D] and [M, D], [0] without references; grad [2, N] is that of the distances.
  m.def(
      "_weighted_distances_backward(Tensor grad, Tensor embeddings, Tensor labels, Tensor? ref_embeddings, "
      "Tensor?[] pairing, int[] numbers, int distance, Tensor values) -> (Tensor, Tensor)");
  // Lines of key=value about this library and the CPU.
  m.def("_build_info() -> str");
  // loss [T] or []; values [3, 4, 6 or 7, T] float64 for the backward: slopes d loss / d d_ap, distances to the
  // positive and to the negative, with swap whether it was swapped, for cosine the three rows' 1 / |x|. weights [T] or
  // none.
  m.def(
      "triplet_margin_loss(Tensor anchor, Tensor positive, Tensor negative, Tensor? weights, float margin, int "
      "distance, bool swap, bool soft_margin, float? mining_margin, int reduction) -> (Tensor, Tensor)");
  // Gradients [T, D] of anchor, positive and negative; [0] of one that is not wanted.
  m.def(
      "_triplet_margin_loss_backward(Tensor grad_loss, Tensor anchor, Tensor positive, Tensor negative, Tensor "
      "values, int distance, bool swap, bool wants_anchor, bool wants_positive, bool wants_negative) -> "
      "(Tensor, Tensor, Tensor)");
}
