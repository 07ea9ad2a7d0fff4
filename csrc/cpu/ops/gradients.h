// Gradients as operators over whole batches return them.
#pragma once

#include <vector>

#include "check.h"
#include "cpu/ops/pairing_tensors.h"
#include "tensors.h"

namespace fasttriplet::cpu {

// Gradients [N, D] and [M, D], [0] where not wanted or where there are no references.
struct Gradients {
  Tensor own, references;

  Gradients(const PairingTensors& pairing, bool wanted)
      : own(like(pairing.embeddings, wanted ? &pairing.embeddings : nullptr)),
        references(like(pairing.embeddings, wanted && pairing.ref_embeddings ? &*pairing.ref_embeddings : nullptr)) {}

 private:
  static Tensor like(const Tensor& embeddings, const Tensor* shaped) {
    return new_tensor(
        shaped == nullptr ? std::vector<int64_t>{0} : std::vector<int64_t>{shaped->size(0), shaped->size(1)},
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
