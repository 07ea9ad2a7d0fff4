// Gradients as operators over whole batches return them.
#pragma once

#include <optional>
#include <vector>

#include "check.h"
#include "cpu/ops/pairing_tensors.h"
#include "tensors.h"

namespace fasttriplet::cpu {

// Gradients [N, D] and [M, D], [0] where not wanted or where there are no references.
struct Gradients {
  Tensor own, references;

  Gradients(const PairingTensors& pairing, bool wanted)
      : Gradients(pairing, wanted, parts_of({}, pairing.embeddings.size(0), count(pairing.ref_embeddings))) {}
  Gradients(const PairingTensors& pairing, bool wanted, const Parts& parts)
      : own(rows(pairing.embeddings, wanted, parts.rows)),
        references(rows(pairing.embeddings, wanted && pairing.ref_embeddings, parts.references)) {}

 private:
  static int64_t count(const std::optional<Tensor>& rows) { return rows ? rows->size(0) : 0; }
  static Tensor rows(const Tensor& embeddings, bool wanted, int64_t count) {
    return new_tensor(wanted ? std::vector<int64_t>{count, embeddings.size(1)} : std::vector<int64_t>{0},
                      embeddings.scalar_type(), embeddings);
  }
};

// Calls f(batch, input, own gradient, references' gradient) with the rows' type.
template <typename F>
void with_rows(const PackedPairing& pairing, int64_t distance, Gradients& gradients, F&& f) {
  dispatch_dtype(pairing.rows(), [&](auto* typed) {
    using T = Pointee<decltype(typed)>;
    f(pairing.batch<T>(distance_of(distance)), pairing.input(), gradients.own.template mutable_data_ptr<T>(),
      gradients.references.template mutable_data_ptr<T>());
  });
}

}  // namespace fasttriplet::cpu
