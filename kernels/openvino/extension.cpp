// The kernels as operators of OpenVINO, in the domain and opset `gnnexport`, on the threads of the compiled model.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/op.hpp>

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "call.hpp"

namespace {

namespace run = gnx::operators;
using gnx::Settings;
using gnx::Tensor;
using gnx::openvino::Attributes;
using gnx::openvino::Call;
using gnx::openvino::Matrices;
using gnx::openvino::tensor_of;

constexpr const char *DOMAIN_NAME = "gnnexport";

// Sizes of a result with a row for each row of x's structure.
ov::PartialShape with_rows(const ov::Node &node, const ov::Dimension &rows) {
  ov::PartialShape shape = node.get_input_partial_shape(0);
  if (shape.rank().is_dynamic()) return shape;
  NODE_VALIDATION_CHECK(&node, shape.size() > 0, "x has no rows");
  shape[0] = rows;
  return shape;
}

ov::Dimension rows_of(const ov::Node &node) {
  const ov::PartialShape rowptr = node.get_input_partial_shape(1);
  if (rowptr.rank().is_dynamic() || rowptr.size() != 1 || rowptr[0].is_dynamic()) return ov::Dimension::dynamic();
  NODE_VALIDATION_CHECK(&node, rowptr[0].get_length() > 0, "rowptr is empty");
  return rowptr[0].get_length() - 1;
}

void infer_reduced(ov::Node &node, const Attributes &) {
  node.set_output_type(0, ov::element::f32, with_rows(node, rows_of(node)));
}

ov::PartialShape multiplied(const ov::Node &node, const Attributes &attributes, size_t place, ov::Dimension rows) {
  NODE_VALIDATION_CHECK(&node, attributes.has(place), "it has no matrix");
  const ov::PartialShape matrix = node.get_input_partial_shape(attributes.port(place));
  const bool known = matrix.rank().is_static() && matrix.size() == 2;
  return {rows, known ? matrix[0] : ov::Dimension::dynamic()};
}

void infer_aggregate_linear(ov::Node &node, const Attributes &attributes) {
  node.set_output_type(0, ov::element::f32, multiplied(node, attributes, run::MATRIX, rows_of(node)));
}

void infer_linear(ov::Node &node, const Attributes &attributes) {
  const ov::PartialShape x = node.get_input_partial_shape(0);
  const ov::Dimension rows = x.rank().is_static() && x.size() > 0 ? x[0] : ov::Dimension::dynamic();
  node.set_output_type(0, ov::element::f32, multiplied(node, attributes, run::LINEAR_MATRIX, rows));
}

void infer_like_input(ov::Node &node, const Attributes &) {
  node.set_output_type(0, ov::element::f32, node.get_input_partial_shape(0));
}

void infer_per_slot(ov::Node &node, const Attributes &) {
  ov::Dimension slots = ov::Dimension::dynamic();
  const auto rowptr = dynamic_cast<ov::op::v0::Constant *>(node.get_input_node_ptr(1));
  const size_t count = rowptr ? ov::shape_size(rowptr->get_shape()) : 0;
  if (count && rowptr->get_element_type() == ov::element::i32) slots = rowptr->get_data_ptr<int32_t>()[count - 1];
  if (count && rowptr->get_element_type() == ov::element::i64) slots = rowptr->get_data_ptr<int64_t>()[count - 1];
  node.set_output_type(0, ov::element::f32, with_rows(node, slots));
}

void infer_csr(ov::Node &node, const Attributes &) {
  node.set_output_type(0, node.get_input_element_type(0), {ov::Dimension::dynamic()});
  node.set_output_type(1, node.get_input_element_type(0), node.get_input_partial_shape(0));
}

void infer_edges(ov::Node &node, const Attributes &) {
  for (size_t place : {0, 1}) node.set_output_type(place, node.get_input_element_type(0), {ov::Dimension::dynamic()});
}

void infer_weighted_edges(ov::Node &node, const Attributes &attributes) {
  infer_edges(node, attributes);
  node.set_output_type(2, ov::element::f32, {ov::Dimension::dynamic()});
}

struct Aggregate {
  static constexpr const char *NAME = "Aggregate";
  static constexpr bool REDUCES = true, SCORES = false, LOOPS = false, LAYER = false;
  static constexpr auto infer = infer_reduced;
  static constexpr auto compute = run::aggregate;
};

struct AggregateLinear {
  static constexpr const char *NAME = "AggregateLinear";
  static constexpr bool REDUCES = true, SCORES = false, LOOPS = false, LAYER = false;
  static constexpr auto infer = infer_aggregate_linear;
  static constexpr auto compute = run::aggregate_linear;
};

struct Linear {
  static constexpr const char *NAME = "Linear";
  static constexpr bool REDUCES = false, SCORES = false, LOOPS = false, LAYER = true;
  static constexpr auto infer = infer_linear;
  static constexpr auto compute = run::linear;
};

struct ReduceEdges {
  static constexpr const char *NAME = "ReduceEdges";
  static constexpr bool REDUCES = true, SCORES = false, LOOPS = false, LAYER = false;
  static constexpr auto infer = infer_reduced;
  static constexpr auto compute = run::reduce_edges;
};

struct Attention {
  static constexpr const char *NAME = "Attention";
  static constexpr bool REDUCES = false, SCORES = true, LOOPS = false, LAYER = false;
  static constexpr auto infer = infer_reduced;
  static constexpr auto compute = run::attention;
};

struct EdgeSoftmax {
  static constexpr const char *NAME = "EdgeSoftmax";
  static constexpr bool REDUCES = false, SCORES = false, LOOPS = false, LAYER = false;
  static constexpr auto infer = infer_like_input;
  static constexpr auto compute = run::edge_softmax;
};

struct Csr {
  static constexpr const char *NAME = "Csr";
  static constexpr bool REDUCES = false, SCORES = false, LOOPS = false, LAYER = false;
  static constexpr auto infer = infer_csr;
  static constexpr auto compute = run::build_csr;
};

struct Edges {
  static constexpr const char *NAME = "Edges";
  static constexpr bool REDUCES = false, SCORES = false, LOOPS = true, LAYER = false;
  static constexpr auto infer = infer_edges;
  static constexpr auto compute = run::edges;
};

struct WeightedEdges {
  static constexpr const char *NAME = "WeightedEdges";
  static constexpr bool REDUCES = false, SCORES = false, LOOPS = true, LAYER = false;
  static constexpr auto infer = infer_weighted_edges;
  static constexpr auto compute = run::weighted_edges;
};

struct GatherDestination {
  static constexpr const char *NAME = "GatherDestination";
  static constexpr bool REDUCES = false, SCORES = false, LOOPS = false, LAYER = false;
  static constexpr auto infer = infer_per_slot;
  static constexpr auto compute = run::gather_destination;
};

// Inputs of each kind that have to be constant, for products.
std::vector<size_t> matrices_of(void *) { return {}; }
std::vector<size_t> matrices_of(AggregateLinear *) { return {run::MATRIX, run::OWN_MATRIX}; }
std::vector<size_t> matrices_of(Linear *) { return {run::LINEAR_MATRIX}; }

// What the layouts of these are called.
constexpr std::array<const char *, 2> WEIGHTS = {"weights", "own_weights"};

const ov::op::v0::Constant *constant(const ov::Node *node) { return dynamic_cast<const ov::op::v0::Constant *>(node); }

// Whether a value follows from constants alone. Such values are computed once, when a model is compiled, but OpenVINO
// makes no constants of all of them.
bool is_known(const ov::Node *node) {
  if (constant(node)) return true;
  for (size_t port = 0; port < node->get_input_size(); ++port) {
    if (!is_known(node->get_input_node_ptr(port))) return false;
  }
  return node->get_input_size() > 0;
}

template <class Kind>
class Operator : public ov::op::Op {
 public:
  OPENVINO_OP(Kind::NAME, DOMAIN_NAME);

  Operator() = default;
  Operator(const ov::OutputVector &inputs, const Attributes &attributes, Matrices matrices = {})
      : Op(inputs), attributes_(attributes), matrices_(std::move(matrices)) {
    constructor_validate_and_infer_types();
  }

  void validate_and_infer_types() override {
    Kind::infer(*this, attributes_);
    for (size_t each = 0; each < WEIGHTS.size(); ++each)
      settings_.layouts[each] = gnx::number_of(gnx::LAYOUTS, WEIGHTS[each], attributes_.weights[each]);
    pack();
    settings_.reduce = gnx::number_of(gnx::REDUCTIONS, "reduce", attributes_.reduce);
    settings_.score = gnx::number_of(gnx::SCORES, "score", attributes_.score);
    settings_.activation = gnx::number_of(gnx::ACTIVATIONS, "activation", attributes_.activation);
    settings_.heads = attributes_.heads;
    settings_.slope = attributes_.slope;
    settings_.scale = attributes_.scale;
    settings_.one_loop = attributes_.one_loop;
    settings_.normalise = attributes_.normalise;
    settings_.fill = attributes_.fill;
  }

  // A copy is made at every request, to ask for sizes: weights that stay are not laid out again.
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector &inputs) const override {
    Matrices same;
    for (const auto &each : matrices_) {
      const size_t port = attributes_.port(each.first);
      const ov::op::v0::Constant *const old = constant(get_input_node_ptr(port));
      const ov::op::v0::Constant *const given = constant(inputs.at(port).get_node());
      const bool stays = old && given && old->get_data_ptr() == given->get_data_ptr();
      if (stays && old->get_shape() == given->get_shape()) same.insert(each);
    }
    return std::make_shared<Operator>(inputs, attributes_, same);
  }

  bool visit_attributes(ov::AttributeVisitor &visitor) override {
    visitor.on_attribute("given", attributes_.given);
    if (Kind::REDUCES) visitor.on_attribute("reduce", attributes_.reduce);
    if (Kind::SCORES) {
      visitor.on_attribute("score", attributes_.score);
      visitor.on_attribute("heads", attributes_.heads);
      visitor.on_attribute("scale", attributes_.scale);
    }
    if (Kind::REDUCES || Kind::SCORES || Kind::LAYER) {
      visitor.on_attribute("activation", attributes_.activation);
      visitor.on_attribute("slope", attributes_.slope);
    }
    for (size_t each = 0; each < matrices_of(static_cast<Kind *>(nullptr)).size(); ++each)
      visitor.on_attribute(WEIGHTS[each], attributes_.weights[each]);
    if (Kind::LOOPS) {
      visitor.on_attribute("one_loop", attributes_.one_loop);
      visitor.on_attribute("normalise", attributes_.normalise);
      visitor.on_attribute("fill", attributes_.fill);
    }
    return true;
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector &outputs, const ov::TensorVector &inputs) const override {
    try {
      pack(inputs);
      Call call(attributes_, matrices_, outputs, inputs);
      Kind::compute(settings_, call);
    } catch (const gnx::Refusal &refusal) {
      OPENVINO_THROW(get_friendly_name(), ": ", refusal.what());
    }
    return true;
  }

  // Loading a model is no time to run it in part: what it gives could be far larger than the model.
  bool can_constant_fold(const ov::OutputVector &) const override { return false; }

 private:
  void pack() {
    pack_each([this](size_t port) -> std::optional<Tensor> {
      const ov::op::v0::Constant *const given = constant(get_input_node_ptr(port));
      if (!given) return std::nullopt;
      return tensor_of(given->get_data_ptr(), given->get_element_type(), given->get_shape());
    });
  }

  // The same at the first request, for matrices that the model computed from constants.
  void pack(const ov::TensorVector &inputs) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    pack_each([&](size_t port) -> std::optional<Tensor> {
      if (!is_known(get_input_node_ptr(port))) return std::nullopt;
      const ov::Tensor &given = inputs.at(port);
      return tensor_of(given.get_size() ? given.data() : nullptr, given.get_element_type(), given.get_shape());
    });
  }

  // Packs what is not packed yet of the matrices whose values `known` gives by port.
  template <class Known>
  void pack_each(const Known &known) const {
    const std::vector<size_t> places = matrices_of(static_cast<Kind *>(nullptr));
    for (size_t each = 0; each < places.size(); ++each) {
      const size_t place = places[each];
      if (!attributes_.has(place) || matrices_.count(place)) continue;
      const std::optional<Tensor> values = known(attributes_.port(place));
      if (values) matrices_[place] = gnx::packed(*values, settings_.layouts[each]);
    }
  }

  Attributes attributes_;
  Settings settings_;
  mutable Matrices matrices_;
  mutable std::mutex mutex_;
};

// The ONNX reader passes a node of this type for an input that is left out.
bool left_out(const ov::Output<ov::Node> &input) {
  return std::string(input.get_node()->get_type_info().name) == "NullNode";
}

template <class Kind>
ov::OutputVector convert(const ov::frontend::NodeContext &node) {
  Attributes attributes;
  ov::OutputVector inputs;
  for (size_t place = 0; place < node.get_input_size(); ++place) {
    const ov::Output<ov::Node> input = node.get_input(static_cast<int>(place));
    if (left_out(input)) continue;
    attributes.given |= int64_t(1) << place;
    inputs.push_back(input);
  }
  attributes.reduce = node.get_attribute("reduce", attributes.reduce);
  attributes.score = node.get_attribute("score", attributes.score);
  attributes.activation = node.get_attribute("activation", attributes.activation);
  attributes.heads = node.get_attribute("heads", attributes.heads);
  attributes.slope = node.get_attribute("slope", attributes.slope);
  attributes.scale = node.get_attribute("scale", attributes.scale);
  attributes.one_loop = node.get_attribute("one_loop", attributes.one_loop);
  attributes.normalise = node.get_attribute("normalise", attributes.normalise);
  attributes.fill = node.get_attribute("fill", attributes.fill);
  for (size_t each = 0; each < WEIGHTS.size(); ++each)
    attributes.weights[each] = node.get_attribute(WEIGHTS[each], attributes.weights[each]);
  return std::make_shared<Operator<Kind>>(inputs, attributes)->outputs();
}

// Of each operator: for files of OpenVINO's own format, and for ONNX.
template <class... Kinds>
std::vector<ov::Extension::Ptr> extensions() {
  using FromOnnx = ov::frontend::onnx::ConversionExtension;
  return {std::make_shared<ov::OpExtension<Operator<Kinds>>>()...,
          std::make_shared<FromOnnx>(Kinds::NAME, DOMAIN_NAME, convert<Kinds>)...};
}

}  // namespace

OPENVINO_CREATE_EXTENSIONS((extensions<Aggregate, AggregateLinear, Linear, ReduceEdges, Attention, EdgeSoftmax, Csr, Edges,
                                        WeightedEdges, GatherDestination>()))
