// Every validation of tensors and option codes in C++. A failed one throws std::invalid_argument, Python's ValueError,
// and names the argument, what it must be and what came.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "core/options.h"

namespace fasttriplet {

using torch::stable::Tensor;

// embeddings [N, D] float32 or float64, labels [N] of an integer dtype or bool.
void check_embeddings(const Tensor& embeddings);
// On one device: labels and all else too must be where the embeddings are.
void check_labels(const Tensor& labels, const Tensor& embeddings);

// Who may pair with whom. Operators take what autograd does not see of it as a list of tensors, in the order in which
// they stand here, and a list of numbers; a list may end early. fasttriplet/arguments.py writes both lists.
using PairingList = std::vector<std::optional<Tensor>>;
using PairingNumbers = std::vector<int64_t>;
struct PairingTensors {
  Tensor embeddings, labels;                         // [N, D]; [N] classes, or bool [N, C] multi-hot
  std::optional<Tensor> ref_embeddings;              // [M, D]
  std::optional<Tensor> ref_labels;                  // [M] or [M, C]
  std::optional<Tensor> self_indices;                // [N] integers, each -1 or an index below M
  std::optional<Tensor> sample_ids, ref_sample_ids;  // [N], [M] integers, -1 for none
  std::optional<Tensor> groups, ref_groups;          // [N], [M] integers
  std::optional<Tensor> ref_mask;                    // [M] bool
  GroupsExclude groups_exclude = GroupsExclude::kPairs;
  std::optional<int64_t> ignore_index;

  PairingTensors(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, const PairingList& pairing,
                 const PairingNumbers& numbers);
};
void check_pairing(const PairingTensors& pairing);
void check_references(const Tensor& references, const Tensor& embeddings);
void check_self_indices(const int64_t* indices, int64_t n, int64_t references);

// Who is no neighbour of whom, in the order in which operators list it; a list may end early.
struct NeighbourTensors {
  Tensor queries;                        // [Q, D]
  std::optional<Tensor> references;      // [M, D]
  std::optional<Tensor> self_indices;    // [Q] int64, each -1 or an index below M
  std::optional<Tensor> keys, ref_keys;  // [K, Q], [K, M] int64: a pair with an equal one, not below zero, is none
  std::optional<Tensor> ref_mask;        // [M] bool

  NeighbourTensors(Tensor queries, std::optional<Tensor> references, const PairingList& rules);
};
void check_neighbours(const NeighbourTensors& neighbours);
void check_radius(double radius);
void check_count(int64_t count, const char* name);  // at least 1

// Tensors that the forward operator made; wrong ones mean a private operator was called by hand.
void check_saved(const Tensor& tensor, const char* name, torch::headeronly::ScalarType dtype, int64_t leading,
                 const Tensor& embeddings, const char* origin = "batch_hard_loss returned for these embeddings");
void check_pairs(const int64_t* pairs, int64_t n);  // [2, N], each -1 or an index below N
// float64 [N], or [rows, N] where rows is not 0.
void check_anchor_values(const Tensor& tensor, const char* name, int64_t rows, const Tensor& embeddings);
// distances [2, T], triplets [3, T] and grad [2, T] of mine_triplets' backward.
void check_mined(const Tensor& grad, const Tensor& distances, const Tensor& triplets, const Tensor& embeddings);
void check_poison(const Tensor& poison, const Tensor& distances);  // [], 1 or NaN
// [3, T]: anchors ascending and below `anchors`, positives and negatives each -1 or an index below `candidates`.
void check_triplet_indices(const int64_t* triplets, int64_t count, int64_t anchors, int64_t candidates);
// Four numbers: the first of the batch's own rows whose gradient is wanted, how many, and the same of references. None
// is for all of them.
struct Parts {
  int64_t first, rows, first_reference, references;
};
Parts parts_of(const std::vector<int64_t>& numbers, int64_t rows, int64_t references);
void check_upstream(const Tensor& grad_loss, const Tensor& embeddings, const char* name = "embeddings");

// anchor, positive and negative [T, D], all float32 or all float64, on one device.
void check_triplets(const Tensor& anchor, const Tensor& positive, const Tensor& negative);
// [T] of a floating dtype.
void check_triplet_weights(const Tensor& weights, const Tensor& anchor);

// on_missing = "error": says how many anchors lack a positive or a negative, and which is the first.
void check_none_missing(int64_t missing, int64_t n, int64_t first);

Distance distance_of(int64_t code);
Reduction reduction_of(int64_t code);
OnMissing on_missing_of(int64_t code);
MinerOptions miner_options_of(int64_t miner, int64_t otherwise, bool within_margin, double margin, int64_t k,
                              bool kth_only, double skip_fraction);

}  // namespace fasttriplet
