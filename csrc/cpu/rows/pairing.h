// Who may pair with whom: the candidates of every anchor, and which of them are positives and which negatives.
//
//   candidates   the batch's own rows, or the references behind them
//   positive     rows whose labels are equal, or of several labels a row share one
//   negative     all other rows
//   no pair      a row and its own copies, rows of one group, and whatever is ignored, masked or not finite
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rows/batch.h"
#include "cpu/rows/groups.h"
#include "cpu/rows/kind_index.h"
#include "cpu/rows/pairing_input.h"

namespace fasttriplet::cpu {

enum class Role { kPositive, kNegative, kNone };

// Candidates as columns of the scan: by kind, kinds being the rows' distinct labels and groups.
class Pairing {
 public:
  template <typename T>
  Pairing(const Batch<T>& batch, const Survey& survey, const PairingInput& input, EqualRows equal_rows);

  int64_t anchors() const { return anchors_; }        // rows [0, anchors) of the batch
  int64_t candidates() const { return candidates_; }  // rows from `first_candidate` on
  int64_t first_candidate() const { return first_candidate_; }
  bool has_references() const { return has_references_; }  // else the candidates are the batch's own rows
  bool all_finite() const { return all_finite_; }          // those that are not ignored

  // Columns: sets of equal candidates of one kind, or single candidates.
  const Groups& columns() const { return columns_; }
  int32_t column_of(int64_t candidate) const { return columns_.representative_of[candidate]; }
  // How many rows a column has, where samples may have several copies; else 1 for a row by itself and 2 for more.
  int64_t rows_of(int32_t column) const {
    return column_rows_.empty() ? 1 + (columns_.twin[column] >= 0) : column_rows_[column];
  }

  bool takes_part(int64_t row) const { return takes_part_[row] != 0; }
  // Whether the candidate is the anchor itself or a copy of it, which is never its partner.
  bool is_own(int64_t anchor, int64_t candidate) const {
    return candidate == itself(anchor) ||
           (sample(anchor) >= 0 && sample(anchor) == sample(first_candidate_ + candidate));
  }
  // Calls f(candidate) for each of those.
  template <typename F>
  void for_each_own(int64_t anchor, F&& f) const {
    const int64_t own = itself(anchor);
    if (own >= 0) f(own);
    if (sample(anchor) < 0) return;
    for (int32_t at = copies_begin_[sample(anchor)]; at < copies_begin_[sample(anchor) + 1]; ++at)
      if (copies_[at] != own) f(int64_t{copies_[at]});
  }
  // Class of columns(), -1 where no candidate is of the anchor's kind.
  int32_t kind_of(int64_t anchor) const { return kind_of_[anchor]; }
  // Whether rows of one kind may be negatives of each other: such as have no label at all.
  bool kinds_have_negatives() const { return input_.bit_masks; }
  Role role(int64_t anchor, int32_t kind) const;  // of the kind's candidates, `kind` a class of columns()

  // Calls f(begin, end) for runs of the kinds of positives, ascending.
  template <typename F>
  void for_each_positive_run(int64_t anchor, F&& f) const {
    if (plain_) return own_kind(anchor, f);
    index_.for_each_run(anchor, [](uint64_t shared, uint64_t grouped) { return shared & ~grouped; }, f);
  }
  // Likewise for all but the kinds of negatives.
  template <typename F>
  void for_each_run_but_negatives(int64_t anchor, F&& f) const {
    if (plain_) return own_kind(anchor, f);
    const uint64_t excluded = input_.groups_exclude == GroupsExclude::kPairs ? ~uint64_t{0} : 0;
    index_.for_each_run(anchor, [=](uint64_t shared, uint64_t grouped) { return shared | (grouped & excluded); }, f);
  }
  // Calls f(kind) for each kind of positives, ascending.
  template <typename F>
  void for_each_positive_kind(int64_t anchor, F&& f) const {
    for_each_positive_run(anchor, [&](int32_t begin, int32_t end) {
      for (int32_t kind = begin; kind < end; ++kind) f(kind);
    });
  }
  // Likewise for all but the kinds of negatives.
  template <typename F>
  void for_each_kind_but_negatives(int64_t anchor, F&& f) const {
    for_each_run_but_negatives(anchor, [&](int32_t begin, int32_t end) {
      for (int32_t kind = begin; kind < end; ++kind) f(kind);
    });
  }

  // Calls f(candidate, column) for each positive of an anchor, by kind and ascending in each.
  template <typename F>
  void for_each_positive(int64_t anchor, F&& f) const {
    for_each_positive_kind(anchor, [&](int32_t kind) {
      for (int32_t at = columns_.class_begin[kind]; at < columns_.class_begin[kind + 1]; ++at) {
        const int32_t candidate = columns_.members[at], column = column_of(candidate);
        if (column >= 0 && !is_own(anchor, candidate)) f(candidate, column);
      }
    });
  }

  // Rows of the batch: anchors that take part, and the lowest row of each column. The same where every row is a column.
  std::vector<int32_t> anchor_rows() const;
  std::vector<int32_t> column_rows() const;

  int64_t count(int64_t anchor, Role role) const;  // candidates of an anchor that takes part, its own copies left out

  // Columns whose rows can never be the lowest of their value among any anchor's negatives.
  const std::vector<int32_t>& barred_negatives() const { return barred_negatives_; }

 private:
  // The candidate that is the anchor itself, -1 for none.
  int64_t itself(int64_t anchor) const {
    if (!has_references_) return anchor;
    return input_.self_indices == nullptr ? -1 : input_.self_indices[anchor];
  }
  int32_t sample(int64_t row) const { return sample_of_.empty() ? -1 : sample_of_[row]; }
  void number_samples(int64_t rows);

  // With plain labels all but the anchor's own kind are negatives.
  template <typename F>
  void own_kind(int64_t anchor, F&& f) const {
    if (kind_of_[anchor] >= 0) f(kind_of_[anchor], kind_of_[anchor] + 1);
  }

  PairingInput input_;
  bool has_references_;
  int64_t anchors_, first_candidate_, candidates_;
  bool all_finite_ = true;
  bool plain_;                        // one word, no groups: a kind is a label
  KindIndex index_;                   // where labels are not plain
  std::vector<uint8_t> takes_part_;   // [N]
  std::vector<int32_t> kind_of_;      // [anchors] class of columns_, -1 where no candidate is of that kind
  std::vector<int64_t> row_of_kind_;  // [kinds] a row of the batch
  std::vector<int64_t> members_;      // [kinds + 1] candidates that take part, of all kinds before
  Groups columns_;
  std::vector<int32_t> barred_negatives_;
  std::vector<int32_t> column_rows_;   // [columns] rows of each; empty where no ids were given
  std::vector<int32_t> sample_of_;     // [N] samples numbered, -1 for none; empty where no ids were given
  std::vector<int32_t> copies_begin_;  // [samples + 1] into copies_
  std::vector<int32_t> copies_;        // candidates by sample, ascending in each
};

}  // namespace fasttriplet::cpu
