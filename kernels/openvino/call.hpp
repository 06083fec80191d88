// How a node of OpenVINO hands its inputs, outputs and attributes to an operator.
#pragma once

#include <openvino/runtime/tensor.hpp>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "operators.hpp"

namespace gnx::openvino {

// Stands in for the address of a tensor without elements.
inline constexpr int64_t NOTHING = 0;

inline Element element_of(const ov::element::Type &type) {
  if (type == ov::element::f32) return Element::F32;
  if (type == ov::element::bf16) return Element::BF16;
  if (type == ov::element::f16) return Element::F16;
  if (type == ov::element::i8) return Element::I8;
  if (type == ov::element::i32) return Element::I32;
  return type == ov::element::i64 ? Element::I64 : Element::OTHER;
}

inline void run_tasks(void *, void (*task)(void *, size_t), size_t count, void *data) {
  tbb::parallel_for(size_t(0), count, [=](size_t index) { task(data, index); }, tbb::static_partitioner());
}

// What a node says besides its inputs. Bits of `given`: the inputs it has. OpenVINO knows none that is left out in the
// middle, so that those behind move up.
struct Attributes {
  std::string reduce = "sum", score = "given", activation = "identity";
  std::array<std::string, 2> weights = {"dense", "dense"};
  int64_t heads = 1, one_loop = 0, normalise = 0, given = 0;
  float slope = 0.0f, scale = 1.0f, fill = 1.0f;

  bool has(size_t place) const { return given >> place & 1; }
  size_t port(size_t place) const { return std::bitset<64>(given & ((int64_t(1) << place) - 1)).count(); }
};

// Constant inputs that products read, by their places.
using Matrices = std::map<size_t, std::shared_ptr<gnx_matrix>>;

inline Tensor tensor_of(const void *data, const ov::element::Type &type, const ov::Shape &shape) {
  return {ov::shape_size(shape) ? data : &NOTHING, element_of(type), {shape.begin(), shape.end()}};
}

class Call final : public Host {
 public:
  Call(const Attributes &attributes, const Matrices &matrices, ov::TensorVector &outputs,
       const ov::TensorVector &inputs)
      : attributes_(attributes), matrices_(matrices), outputs_(outputs), inputs_(inputs) {}

  Tensor read(size_t place) const override {
    if (!attributes_.has(place)) return Tensor();
    const ov::Tensor &value = inputs_.at(attributes_.port(place));
    return tensor_of(value.get_size() ? value.data() : nullptr, value.get_element_type(), value.get_shape());
  }

  const gnx_matrix *matrix(size_t place) const override {
    const auto found = matrices_.find(place);
    return found == matrices_.end() ? nullptr : found->second.get();
  }

  void *write(size_t place, Element element, const std::vector<int64_t> &sizes) override {
    ov::Tensor &value = outputs_.at(place);
    demand(element_of(value.get_element_type()) == element, "the result has another type than was inferred");
    value.set_shape(ov::Shape(sizes.begin(), sizes.end()));
    return value.data();
  }

  gnx_threads threads() const override { return {run_tasks, nullptr, tbb::this_task_arena::max_concurrency()}; }

 private:
  const Attributes &attributes_;
  const Matrices &matrices_;
  ov::TensorVector &outputs_;
  const ov::TensorVector &inputs_;
};

}  // namespace gnx::openvino
