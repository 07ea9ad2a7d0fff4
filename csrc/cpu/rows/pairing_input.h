// What a caller says of who may pair with whom, as numbers a row.
#pragma once

#include <cstdint>

#include "core/options.h"

namespace fasttriplet::cpu {

// Of all N rows of the batch, references behind its own; null where the caller says nothing.
struct PairingInput {
  const int64_t* labels;            // [N, words]
  int64_t words = 1;                // of a label: 1, or as many as its bits take
  bool bit_masks = false;           // whether a word is 64 labels, not one
  const int64_t* groups = nullptr;  // [N]
  GroupsExclude groups_exclude = GroupsExclude::kPairs;
  const int64_t* self_indices = nullptr;    // [split] an anchor's own copy among the references, -1 for none
  const int64_t* sample_ids = nullptr;      // [N] rows of equal number are copies of one sample, -1: of none
  const uint8_t* reference_mask = nullptr;  // [N - split] 0: the reference is not there
  const int64_t* ignored = nullptr;         // the label to leave out
};

}  // namespace fasttriplet::cpu
