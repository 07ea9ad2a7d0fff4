// The tensors that say who pairs with whom, checked and packed, as the kernels take them.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "check.h"
#include "cpu/isa/isa.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"
#include "tensors.h"

namespace fasttriplet::cpu {

class PackedPairing {
 public:
  explicit PackedPairing(const PairingTensors& pairing)
      : rows_(packed(pairing.embeddings)),
        references_(pairing.ref_embeddings ? std::optional<Tensor>(packed(*pairing.ref_embeddings)) : std::nullopt),
        bit_masks_(pairing.labels.dim() == 2),
        words_(bit_masks_ ? pairing.labels.size(1) : 1),
        labels_(joined(pairing.labels, pairing.ref_labels)),
        ignored_(pairing.ignore_index) {
    if (pairing.groups) groups_ = joined(*pairing.groups, pairing.ref_groups);
    if (!pairing.self_indices) return;
    self_indices_ = joined(*pairing.self_indices, std::nullopt);
    check_self_indices(self_indices_.data(), rows_.size(0), references_->size(0));
  }

  PairingInput input() const {
    return {labels_.data(),
            words_,
            bit_masks_,
            groups_ ? groups_->data() : nullptr,
            self_indices_.empty() ? nullptr : self_indices_.data(),
            ignored_ ? &*ignored_ : nullptr};
  }
  template <typename T>
  Batch<T> batch(Distance distance) const {
    return batch_of<T>(rows_, references_, distance);
  }
  template <typename T>
  static Batch<T> batch_of(const Tensor& rows, const std::optional<Tensor>& references, Distance distance) {
    static const T none[1] = {};  // null is for no references at all, and what an empty tensor may have for data
    const int64_t n = rows.size(0), m = references ? references->size(0) : 0;
    const T* more = references ? references->template const_data_ptr<T>() : nullptr;
    if (references && more == nullptr) more = none;
    return {rows.const_data_ptr<T>(), n + m, rows.size(1), distance, chosen_tier(), more, n};
  }
  const Tensor& rows() const { return rows_; }

 private:
  static std::vector<int64_t> joined(const Tensor& own, const std::optional<Tensor>& more) {
    std::vector<int64_t> values;
    for (const std::optional<Tensor>& part : {std::optional<Tensor>(own), more}) {
      if (!part) continue;
      const Tensor ids = packed(as_int64(*part));
      const int64_t* data = ids.const_data_ptr<int64_t>();
      values.insert(values.end(), data, data + ids.numel());
    }
    return values;
  }

  Tensor rows_;
  std::optional<Tensor> references_;
  bool bit_masks_;
  int64_t words_;
  std::vector<int64_t> labels_;
  std::optional<std::vector<int64_t>> groups_;
  std::vector<int64_t> self_indices_;
  std::optional<int64_t> ignored_;
};

}  // namespace fasttriplet::cpu
