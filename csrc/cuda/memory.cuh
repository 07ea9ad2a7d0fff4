// Scratch of one call, carved out of one allocation: first counted, then given out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fasttriplet::cuda {

class Memory {
 public:
  virtual ~Memory() = default;
  template <typename T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(static_cast<size_t>(count > 0 ? count : 1) * sizeof(T)));
  }

 private:
  virtual void* take_bytes(size_t bytes) = 0;
};

// Pieces of an allocation, or, without one, the count of the bytes it needs.
class Carver : public Memory {
 public:
  explicit Carver(char* base) : base_(base) {}
  size_t used() const { return used_; }

 private:
  void* take_bytes(size_t bytes) override {
    void* const piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return piece;
  }
  static constexpr size_t kAlignment = 256;
  char* base_;
  size_t used_ = 0;
};

}  // namespace fasttriplet::cuda
