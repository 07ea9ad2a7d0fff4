#include "cpu/rows/kind_index.h"

#include <unordered_map>

namespace fasttriplet::cpu {

KindIndex::KindIndex(const PairingInput& input, int64_t anchors, const std::vector<int64_t>& row_of_kind)
    : words_((static_cast<int64_t>(row_of_kind.size()) + kBits - 1) / kBits) {
  if (input.groups != nullptr) by_group_ = ListedKinds(input.groups, anchors, row_of_kind);
  if (!input.bit_masks) {
    by_label_ = ListedKinds(input.labels, anchors, row_of_kind);
    return;
  }
  masks_ = input.labels;
  mask_words_ = input.words;
  with_label_.assign(kBits * mask_words_ * words_, 0);
  for (size_t kind = 0; kind < row_of_kind.size(); ++kind)
    for (int64_t w = 0; w < mask_words_; ++w)
      for (uint64_t left = static_cast<uint64_t>(masks_[row_of_kind[kind] * mask_words_ + w]); left != 0;
           left &= left - 1)
        with_label_[(kBits * w + __builtin_ctzll(left)) * words_ + kind / kBits] |= uint64_t{1} << kind % kBits;
}

void KindIndex::mark_labels(int64_t anchor, int64_t first, int64_t end, uint64_t* bits) const {
  if (masks_ == nullptr) return;
  for (int64_t w = 0; w < mask_words_; ++w)
    for (uint64_t left = static_cast<uint64_t>(masks_[anchor * mask_words_ + w]); left != 0; left &= left - 1) {
      const uint64_t* const kinds = with_label_.data() + (kBits * w + __builtin_ctzll(left)) * words_;
      for (int64_t at = first; at < end; ++at) bits[at - first] |= kinds[at];
    }
}

KindIndex::ListedKinds::ListedKinds(const int64_t* number_of_row, int64_t anchors,
                                    const std::vector<int64_t>& row_of_kind) {
  std::unordered_map<int64_t, int32_t> list_of_number;
  std::vector<int32_t> list_of_kind;
  list_of_kind.reserve(row_of_kind.size());
  for (const int64_t row : row_of_kind) {
    const int32_t next = static_cast<int32_t>(list_of_number.size());
    list_of_kind.push_back(list_of_number.emplace(number_of_row[row], next).first->second);
  }
  begin_.assign(list_of_number.size() + 1, 0);
  for (const int32_t list : list_of_kind) ++begin_[list + 1];
  for (size_t list = 1; list < begin_.size(); ++list) begin_[list] += begin_[list - 1];
  std::vector<int32_t> next(begin_.begin(), begin_.end() - 1);
  kinds_.resize(list_of_kind.size());
  for (size_t kind = 0; kind < list_of_kind.size(); ++kind)
    kinds_[next[list_of_kind[kind]]++] = static_cast<int32_t>(kind);
  list_of_.reserve(anchors);
  for (int64_t i = 0; i < anchors; ++i) {
    const auto found = list_of_number.find(number_of_row[i]);
    list_of_.push_back(found == list_of_number.end() ? -1 : found->second);
  }
}

}  // namespace fasttriplet::cpu
