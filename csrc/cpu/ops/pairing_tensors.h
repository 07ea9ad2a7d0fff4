// The tensors that say who pairs with whom, checked and packed, as the kernels take them.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "check.h"
#include "cpu/isa/isa.h"
#include "cpu/rows/batch.h"
#include "cpu/rows/pairing.h"
#include "cpu/triplets/wanted_rows.h"
#include "tensors.h"

namespace fasttriplet::cpu {

// Of a batch with `split` rows of its own.
inline WantedRows wanted_rows(const Parts& parts, int64_t split) {
  const int64_t first_reference = split + parts.first_reference;
  return {{parts.first, parts.first + parts.rows}, {first_reference, first_reference + parts.references}};
}

class PackedPairing {
 public:
  explicit PackedPairing(const PairingTensors& pairing)
      : rows_(packed(pairing.embeddings)),
        references_(pairing.ref_embeddings ? std::optional<Tensor>(packed(*pairing.ref_embeddings)) : std::nullopt),
        multi_hot_(pairing.labels.dim() == 2),
        words_(multi_hot_ ? (pairing.labels.size(1) + kBits - 1) / kBits : 1),
        labels_(joined(pairing.labels, pairing.ref_labels)),
        groups_exclude_(pairing.groups_exclude),
        ignored_(pairing.ignore_index) {
    if (pairing.groups) groups_ = joined(*pairing.groups, pairing.ref_groups);
    if (pairing.sample_ids) sample_ids_ = joined(*pairing.sample_ids, pairing.ref_sample_ids);
    if (pairing.ref_mask) mask_ = packed(*pairing.ref_mask);
    if (!pairing.self_indices) return;
    self_indices_ = joined(*pairing.self_indices, std::nullopt);
    check_self_indices(self_indices_.data(), rows_.size(0), references_->size(0));
  }

  PairingInput input() const {
    PairingInput input{labels_.data(), words_, multi_hot_};
    input.groups = groups_ ? groups_->data() : nullptr;
    input.groups_exclude = groups_exclude_;
    input.self_indices = self_indices_.empty() ? nullptr : self_indices_.data();
    input.sample_ids = sample_ids_ ? sample_ids_->data() : nullptr;
    input.reference_mask = mask_ ? static_cast<const uint8_t*>(mask_->const_data_ptr()) : nullptr;
    input.ignored = ignored_ ? &*ignored_ : nullptr;
    return input;
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
  static constexpr int64_t kBits = 64;

  // Integers of the batch's own rows and of the references behind them; of multi-hot labels words of bits.
  static std::vector<int64_t> joined(const Tensor& own, const std::optional<Tensor>& more) {
    std::vector<int64_t> values;
    for (const std::optional<Tensor>& part : {std::optional<Tensor>(own), more}) {
      if (!part) continue;
      if (part->dim() == 2) {
        append_bits(packed(*part), values);
        continue;
      }
      const Tensor ids = packed(as_int64(*part));
      const int64_t* data = ids.const_data_ptr<int64_t>();
      values.insert(values.end(), data, data + ids.numel());
    }
    return values;
  }
  static void append_bits(const Tensor& multi_hot, std::vector<int64_t>& words) {
    const uint8_t* hot = static_cast<const uint8_t*>(multi_hot.const_data_ptr());
    const int64_t count = multi_hot.size(1);
    for (int64_t row = 0; row < multi_hot.size(0); ++row)
      for (int64_t first = 0; first < count; first += kBits) {
        uint64_t word = 0;
        for (int64_t bit = 0; bit < std::min(kBits, count - first); ++bit)
          word |= uint64_t{hot[row * count + first + bit] != 0} << bit;
        words.push_back(static_cast<int64_t>(word));
      }
  }

  Tensor rows_;
  std::optional<Tensor> references_;
  bool multi_hot_;
  int64_t words_;
  std::vector<int64_t> labels_;
  std::optional<std::vector<int64_t>> groups_;
  GroupsExclude groups_exclude_;
  std::optional<std::vector<int64_t>> sample_ids_;
  std::vector<int64_t> self_indices_;
  std::optional<Tensor> mask_;
  std::optional<int64_t> ignored_;
};

}  // namespace fasttriplet::cpu
