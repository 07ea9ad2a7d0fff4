// Which kinds of candidates share a label with an anchor and which are of its group, found without asking each kind.
//
// A kind is the labels and the group that its rows have in common. Kinds are looked at 64 at a time, a bit each:
//
//   one label a row       the few kinds of the anchor's label, listed, set their bits
//   several labels a row  the bits of all kinds with a label are kept, and or-ed over the anchor's labels
//   groups                the kinds of the anchor's group, listed, set theirs
//
// Memory: as the labels themselves take, and two lists of kinds. An anchor costs a word for every 64 kinds and each of
// its labels, and what is found.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/rows/pairing_input.h"

namespace fasttriplet::cpu {

class KindIndex {
 public:
  KindIndex() = default;
  // Of kinds given by a row each. Anchors are the rows before `anchors`.
  KindIndex(const PairingInput& input, int64_t anchors, const std::vector<int64_t>& row_of_kind);

  // Calls f(begin, end) for runs of the kinds that chosen(kinds that share a label, kinds of one group) has bits of,
  // ascending: neighbours are one run, as all are where rows have so many labels that any two share one.
  template <typename Chosen, typename F>
  void for_each_run(int64_t anchor, Chosen&& chosen, F&& f) const {
    ListedKinds::Cursor label = by_label_.of(anchor), group = by_group_.of(anchor);
    int32_t begin = 0, end = 0;  // of the run that may go on
    for (int64_t first = 0; first < words_; first += kBlock) {
      const int64_t last = std::min(first + kBlock, words_);
      uint64_t shared[kBlock] = {}, grouped[kBlock] = {};
      label.mark(first, last, shared);
      group.mark(first, last, grouped);
      mark_labels(anchor, first, last, shared);
      for (int64_t w = first; w < last; ++w) {
        uint64_t left = chosen(shared[w - first], grouped[w - first]);
        while (left != 0) {
          const int lowest = __builtin_ctzll(left);
          const uint64_t above = ~(left >> lowest);  // 0 where the run takes the whole word
          const int length = above == 0 ? static_cast<int>(kBits) : __builtin_ctzll(above);
          const int32_t from = static_cast<int32_t>(kBits * w + lowest);
          if (from != end) {
            if (begin != end) f(begin, end);
            begin = from;
          }
          end = from + length;
          left = lowest + length == kBits ? 0 : left >> (lowest + length) << (lowest + length);
        }
      }
    }
    if (begin != end) f(begin, end);
  }

 private:
  static constexpr int64_t kBits = 64;
  static constexpr int64_t kBlock = 8;  // words looked at together: a cache line of each label's bits

  // Kinds by a number that each has, ascending in each.
  class ListedKinds {
   public:
    ListedKinds() = default;
    ListedKinds(const int64_t* number_of_row, int64_t anchors, const std::vector<int64_t>& row_of_kind);

    struct Cursor {
      const int32_t *at, *end;
      // Sets the bits of its kinds in words [first, last), to be asked for in ascending order.
      void mark(int64_t first, int64_t last, uint64_t* bits) {
        for (; at != end && *at < kBits * last; ++at) bits[*at / kBits - first] |= uint64_t{1} << *at % kBits;
      }
    };
    Cursor of(int64_t anchor) const {
      if (list_of_.empty() || list_of_[anchor] < 0) return {nullptr, nullptr};
      return {kinds_.data() + begin_[list_of_[anchor]], kinds_.data() + begin_[list_of_[anchor] + 1]};
    }

   private:
    std::vector<int32_t> list_of_;  // [anchors] -1 where no kind has the number; empty where there are no numbers
    std::vector<int32_t> begin_;    // [lists + 1] into kinds_
    std::vector<int32_t> kinds_;    // [kinds]
  };

  // Adds the bits of kinds that share one of several labels.
  void mark_labels(int64_t anchor, int64_t first, int64_t end, uint64_t* bits) const;

  int64_t words_ = 0;  // of a bit for each kind
  ListedKinds by_label_, by_group_;
  const int64_t* masks_ = nullptr;    // [N, mask_words_] of the input, null where a row has one label
  int64_t mask_words_ = 0;            // of a row's labels
  std::vector<uint64_t> with_label_;  // [64 * mask_words_, words_] kinds with each label
};

}  // namespace fasttriplet::cpu
