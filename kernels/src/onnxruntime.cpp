// The kernels as custom operators of ONNX Runtime, in the domain `gnnexport`, on the threads of the session.
#include <array>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "gnnexport/kernels.h"
#include "level_operators.hpp"
#include "onnxruntime_abi.hpp"

namespace {

namespace run = gnx::operators;
using gnx::Element;
using gnx::Host;
using gnx::Settings;
using gnx::Tensor;
using ort::Context;
using ort::CustomOp;
using ort::Info;
using ort::Status;
using ort::Value;

ort::Api api;

// What the runtime itself refused.
struct Failure {
  Status *status;
};

void demand(Status *status) {
  if (status) throw Failure{status};
}

// Stands in for the address of a tensor without elements.
const int64_t NOTHING = 0;

Element element_of(ort::Type type) {
  switch (type) {
    case ort::FLOAT: return Element::F32;
    case ort::BFLOAT16: return Element::BF16;
    case ort::FLOAT16: return Element::F16;
    case ort::UINT8: return Element::U8;
    case ort::INT8: return Element::I8;
    case ort::INT32: return Element::I32;
    case ort::INT64: return Element::I64;
    default: return Element::OTHER;
  }
}

void run_tasks(void *host, void (*task)(void *, size_t), size_t count, void *data) {
  // It fails only where there is no context, and there is one.
  Status *failed = api.parallel_for(static_cast<const Context *>(host), task, count, data);
  if (!failed) return;
  api.release(failed);
  for (size_t index = 0; index < count; ++index) task(data, index);
}

Tensor tensor_of(const Value *value) {
  Tensor tensor;
  ort::ShapeInfo *info = nullptr;
  demand(api.shape(value, &info));
  ort::Type type = ort::ANY;
  size_t rank = 0;
  Status *failed = api.type(info, &type);
  if (!failed) failed = api.rank(info, &rank);
  tensor.sizes.resize(rank);
  if (!failed) failed = api.sizes(info, tensor.sizes.data(), rank);
  api.release(info);
  demand(failed);
  void *data = nullptr;
  demand(api.data(const_cast<Value *>(value), &data));
  tensor.data = data ? data : &NOTHING;
  tensor.element = element_of(type);
  return tensor;
}

// Constant inputs that products read, by their places.
using Matrices = std::map<size_t, gnx::Matrix>;

class Call final : public Host {
 public:
  Call(Context *context, const Matrices &matrices) : context_(context), matrices_(matrices) {}

  Tensor read(size_t place) const override {
    size_t count = 0;
    demand(api.input_count(context_, &count));
    const Value *value = nullptr;
    if (place < count) demand(api.input(context_, place, &value));
    return value ? tensor_of(value) : Tensor();
  }

  const gnx_matrix *matrix(size_t place) const override {
    const auto found = matrices_.find(place);
    return found == matrices_.end() ? nullptr : found->second.get();
  }

  // The runtime knows the type from the description of the operator.
  void *write(size_t place, Element, const std::vector<int64_t> &sizes) override {
    Value *value = nullptr;
    demand(api.output(context_, place, sizes.data(), sizes.size(), &value));
    void *data = nullptr;
    demand(api.data(value, &data));
    return data;
  }

  gnx_threads threads() const override { return {run_tasks, context_, 0}; }

 private:
  Context *context_;
  const Matrices &matrices_;
};

template <class Type>
void take(const Info *info, const char *name, Type *out) {
  Status *missing = api.attribute(info, name, out);
  if (missing) api.release(missing);  // the default stands
}

template <class Words>
void take(const Info *info, const char *name, const Words &words, int32_t *out) {
  char text[32] = {};
  size_t size = sizeof(text);
  Status *missing = api.attribute(info, name, text, &size);
  if (!missing) {
    *out = gnx::number_of(words, name, text);
    return;
  }
  api.release(missing);
  gnx::demand(size <= sizeof(text), "an attribute is no word that is known");
}

bool has_word(const Info *info, const char *name) {
  size_t size = 0;
  Status *missing = api.attribute(info, name, nullptr, &size);
  if (missing) api.release(missing);
  return size > 0;
}

Settings settings_of(const Info *info, const std::vector<const char *> &words) {
  for (const char *name : words) {
    if (!has_word(info, name)) throw gnx::Refusal(std::string("the attribute '") + name + "' is missing");
  }
  Settings settings;
  take(info, "reduce", gnx::REDUCTIONS, &settings.reduce);
  take(info, "score", gnx::SCORES, &settings.score);
  take(info, "activation", gnx::ACTIVATIONS, &settings.activation);
  take(info, "heads", &settings.heads);
  take(info, "slope", &settings.slope);
  take(info, "scale", &settings.scale);
  take(info, "one_loop", &settings.one_loop);
  take(info, "normalise", &settings.normalise);
  take(info, "fill", &settings.fill);
  take(info, "bits", &settings.bits);
  take(info, "zero", &settings.zero);
  take(info, "signed", &settings.rows_signed);
  take(info, "own_signed", &settings.own_signed);
  take(info, "nearest", &settings.nearest);
  take(info, "next_bits", &settings.next_bits);
  take(info, "next_zero", &settings.next_zero);
  take(info, "given", &settings.given);
  take(info, "given_signed", &settings.given_signed);
  take(info, "sum_activation", gnx::ACTIVATIONS, &settings.sum_activation);
  take(info, "sum_slope", &settings.sum_slope);
  take(info, "weights", gnx::LAYOUTS, &settings.layouts[0]);
  take(info, "own_weights", gnx::LAYOUTS, &settings.layouts[1]);
  return settings;
}

using Compute = void (*)(const Settings &, Host &);

struct Operator : CustomOp {
  const char *text;
  std::vector<ort::Type> inputs, outputs;
  size_t required, required_outputs;
  std::vector<const char *> words;  // attributes that have to be there
  std::vector<size_t> matrices;     // inputs that have to be constant, for products
  Compute run;
};

struct Kernel {
  Settings settings;
  Matrices matrices;
  Compute run;
};

const Operator &of(const CustomOp *op) { return *static_cast<const Operator *>(op); }

// Run something that may refuse, and say so to the runtime.
template <class Action>
Status *answer(Action action) {
  try {
    action();
    return nullptr;
  } catch (const Failure &failure) {
    return failure.status;
  } catch (const gnx::Refusal &refusal) {
    return api.fail(refusal.what());
  } catch (const std::exception &) {
    return api.fail(gnx_message(GNX_MEMORY));
  }
}

Matrices matrices_of(const Info *info, const std::vector<size_t> &places, const Settings &settings) {
  Matrices matrices;
  for (size_t each = 0; each < places.size(); ++each) {
    int constant = 0;
    const Value *value = nullptr;
    Status *missing = api.constant_input(info, places[each], &constant, &value);
    if (missing) api.release(missing);
    if (missing || !constant || !value) continue;
    matrices[places[each]] = gnx::packed(tensor_of(value), settings.layouts.at(each));
  }
  return matrices;
}

Status *create(const CustomOp *op, const void *, const Info *info, void **kernel) {
  return answer([&] {
    const Settings settings = settings_of(info, of(op).words);
    *kernel = new Kernel{settings, matrices_of(info, of(op).matrices, settings), of(op).run};
  });
}

Status *compute(void *kernel, Context *context) {
  const Kernel &self = *static_cast<Kernel *>(kernel);
  return answer([&] {
    Call call(context, self.matrices);
    self.run(self.settings, call);
  });
}

Operator describe(const char *name, std::vector<ort::Type> inputs, size_t required, std::vector<ort::Type> outputs,
                  Compute run, std::vector<const char *> words = {}, std::vector<size_t> matrices = {}) {
  Operator op{};
  op.version = ort::VERSION;
  op.name = [](const CustomOp *self) { return of(self).text; };
  op.provider = [](const CustomOp *) -> const char * { return nullptr; };
  op.input_type = [](const CustomOp *self, size_t place) { return of(self).inputs[place]; };
  op.input_count = [](const CustomOp *self) { return of(self).inputs.size(); };
  op.output_type = [](const CustomOp *self, size_t place) { return of(self).outputs[place]; };
  op.output_count = [](const CustomOp *self) { return of(self).outputs.size(); };
  op.destroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
  op.input_presence = [](const CustomOp *self, size_t place) {
    return place < of(self).required ? ort::REQUIRED : ort::OPTIONAL;
  };
  op.output_presence = [](const CustomOp *self, size_t place) {
    return place < of(self).required_outputs ? ort::REQUIRED : ort::OPTIONAL;
  };
  op.input_memory = [](const CustomOp *, size_t) -> int32_t { return 0; };
  op.least_inputs = op.same_inputs = op.least_outputs = op.same_outputs = [](const CustomOp *) -> int32_t { return 1; };
  op.create_v2 = create;
  op.compute_v2 = compute;
  op.start_version = [](const CustomOp *) -> int32_t { return 1; };
  op.end_version = [](const CustomOp *) -> int32_t { return INT32_MAX; };
  op.text = name;
  op.inputs = std::move(inputs);
  op.outputs = std::move(outputs);
  op.required = required;
  op.required_outputs = op.outputs.size();
  op.words = std::move(words);
  op.matrices = std::move(matrices);
  op.run = run;
  return op;
}

// The second result, rows as levels, may be left out.
Operator with_levels(Operator op) {
  op.required_outputs = 1;
  return op;
}

// A layer of levels, whose products begin with input `first`. The runtime tells the type of a result from those of the
// inputs alone: so there are two of each name, and the one whose result is floats takes a next step of a type that none
// has.
std::array<Operator, 2> layer(const char *name, std::vector<ort::Type> rows, size_t first, size_t required,
                              Compute call, const std::vector<const char *> &words) {
  using ort::FLOAT;
  using ort::INT8;
  using ort::UINT8;
  rows.insert(rows.end(), {FLOAT, UINT8, INT8, FLOAT, FLOAT, ort::ANY, FLOAT, UINT8, INT8, FLOAT, FLOAT, FLOAT});
  std::vector<ort::Type> narrow = rows;
  rows.insert(rows.end(), {INT8, FLOAT, UINT8});
  narrow.insert(narrow.end(), {FLOAT, FLOAT, UINT8});
  const std::vector<size_t> matrices = {first + run::TO_MATRIX, first + run::TO_OWN_MATRIX};
  return {with_levels(describe(name, rows, required, {FLOAT, UINT8}, call, words, matrices)),
          with_levels(describe(name, narrow, required, {UINT8, UINT8}, call, words, matrices))};
}

const std::vector<Operator> &operators() {
  using ort::ANY;
  using ort::FLOAT;
  using ort::INT64;
  using ort::UINT8;
  const auto linear = layer("NarrowLinear", {ANY}, run::NARROW_LINEAR, 5, run::narrow_linear, {});
  const auto aggregate_linear =
      layer("NarrowAggregateLinear", {UINT8, ANY, ANY, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, run::NARROW_AGGREGATE_LINEAR,
            4, run::narrow_aggregate_linear, {"reduce"});
  static const std::vector<Operator> all = {
      describe("Aggregate", {ANY, ANY, ANY, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, 3, {FLOAT}, run::aggregate,
               {"reduce"}),
      describe("AggregateLinear", {ANY, ANY, ANY, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, 3, {FLOAT},
               run::aggregate_linear, {"reduce"}, {run::MATRIX, run::OWN_MATRIX}),
      describe("Linear", {FLOAT, FLOAT, FLOAT, FLOAT}, 2, {FLOAT}, run::linear, {}, {run::LINEAR_MATRIX}),
      describe("ReduceEdges", {ANY, ANY, FLOAT, FLOAT}, 2, {FLOAT}, run::reduce_edges, {"reduce"}),
      describe("Attention", {FLOAT, ANY, ANY, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, 3, {FLOAT},
               run::attention, {"score"}),
      describe("EdgeSoftmax", {FLOAT, ANY}, 2, {FLOAT}, run::edge_softmax),
      describe("Csr", {INT64, INT64}, 2, {INT64, INT64}, run::build_csr),
      describe("Edges", {INT64, INT64}, 2, {INT64, INT64}, run::edges),
      describe("WeightedEdges", {INT64, INT64, FLOAT}, 2, {INT64, INT64, FLOAT}, run::weighted_edges),
      describe("GatherDestination", {FLOAT, ANY}, 2, {FLOAT}, run::gather_destination),
      describe("RoundBfloat16", {FLOAT}, 1, {ort::BFLOAT16}, run::round_bfloat16),
      describe("RoundFloat16", {FLOAT}, 1, {ort::FLOAT16}, run::round_float16),
      with_levels(describe("Narrow", {FLOAT, FLOAT, FLOAT, UINT8}, 2, {UINT8, UINT8}, run::narrow)),
      describe("NarrowAggregate", {UINT8, ANY, ANY, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, 4, {FLOAT},
               run::narrow_aggregate, {"reduce"}),
      describe("NarrowAttention",
               {UINT8, ANY, ANY, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, 3, {FLOAT},
               run::narrow_attention, {"score"}),
      linear[0],
      linear[1],
      aggregate_linear[0],
      aggregate_linear[1],
  };
  return all;
}

}  // namespace

extern "C" GNX_API Status *RegisterCustomOps(ort::Options *options, const ort::ApiBase *base) {
  const void *const *table = base->get_api(ort::VERSION);
  // A runtime that old has no way to make a status either; loading the model then says which operator is missing.
  if (!table) return nullptr;
  static std::mutex mutex;
  static ort::Domain *domain = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  // The first runtime of a process is the one that all its sessions have.
  if (!domain) api = ort::Api(table);
  return answer([&] {
    if (!domain) {
      ort::Domain *made = nullptr;
      demand(api.create_domain("gnnexport", &made));
      for (const Operator &op : operators()) demand(api.add(made, &op));
      domain = made;
    }
    demand(api.add(options, domain));
  });
}
