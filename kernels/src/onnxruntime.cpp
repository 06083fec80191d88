// The kernels as custom operators of ONNX Runtime, in the domain `gnnexport`, on the threads of the session.
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "gnnexport/kernels.h"
#include "onnxruntime_abi.hpp"

namespace {

using ort::Context;
using ort::CustomOp;
using ort::Info;
using ort::Status;
using ort::Value;

ort::Api api;

// A mistake in a model: said by the runtime with the node's name.
struct Refusal {
  Status *status;
};

void demand(Status *status) {
  if (status) throw Refusal{status};
}

void demand(bool holds, const char *message) {
  if (!holds) throw Refusal{api.fail(message)};
}

struct Tensor {
  const void *data = nullptr;
  ort::Type type = ort::ANY;
  std::vector<int64_t> sizes;

  explicit operator bool() const { return data != nullptr; }
  int64_t rows() const { return sizes.empty() ? 1 : sizes[0]; }
  int64_t width() const {
    int64_t product = 1;
    for (size_t axis = 1; axis < sizes.size(); ++axis) product *= sizes[axis];
    return product;
  }
  int64_t count() const { return rows() * width(); }
};

// Stands in for the address of a tensor without elements.
const int64_t NOTHING = 0;

Tensor read(const Context *context, size_t place) {
  size_t count = 0;
  demand(api.input_count(context, &count));
  const Value *value = nullptr;
  if (place < count) demand(api.input(context, place, &value));
  Tensor tensor;
  if (!value) return tensor;
  ort::ShapeInfo *info = nullptr;
  demand(api.shape(value, &info));
  size_t rank = 0;
  Status *failed = api.type(info, &tensor.type);
  if (!failed) failed = api.rank(info, &rank);
  tensor.sizes.resize(rank);
  if (!failed) failed = api.sizes(info, tensor.sizes.data(), rank);
  api.release(info);
  demand(failed);
  void *data = nullptr;
  demand(api.data(const_cast<Value *>(value), &data));
  tensor.data = data ? data : &NOTHING;
  return tensor;
}

template <class Type>
Type *write(Context *context, size_t place, const std::vector<int64_t> &sizes) {
  Value *value = nullptr;
  demand(api.output(context, place, sizes.data(), sizes.size(), &value));
  void *data = nullptr;
  demand(api.data(value, &data));
  return static_cast<Type *>(data);
}

const float *floats(const Tensor &tensor, int64_t count, const char *message) {
  if (!tensor) return nullptr;
  demand(tensor.type == ort::FLOAT && tensor.count() == count, message);
  return static_cast<const float *>(tensor.data);
}

gnx_csr structure(const Tensor &rowptr, const Tensor &col, int64_t num_src) {
  const bool known = rowptr.type == ort::INT32 || rowptr.type == ort::INT64;
  demand(known && rowptr.sizes.size() == 1 && rowptr.rows() > 0, "rowptr has to be a row of int32 or int64");
  if (col) demand(col.type == rowptr.type && col.sizes.size() == 1, "col has to be a row of rowptr's type");
  return {rowptr.data, col.data,           rowptr.rows() - 1, col ? col.rows() : num_src,
          num_src,     rowptr.type == ort::INT32 ? 32 : 64};
}

void run_tasks(void *host, void (*task)(void *, size_t), size_t count, void *data) {
  // It fails only where there is no context, and there is one.
  Status *failed = api.parallel_for(static_cast<const Context *>(host), task, count, data);
  if (!failed) return;
  api.release(failed);
  for (size_t index = 0; index < count; ++index) task(data, index);
}

gnx_threads threads_of(Context *context) { return {run_tasks, context, 0}; }

void demand_kernel(int32_t status) { demand(status == GNX_OK, gnx_message(status)); }

// What a node says besides its inputs.
struct Settings {
  int32_t reduce = GNX_SUM, score = GNX_GIVEN, activation = GNX_IDENTITY;
  int64_t heads = 1;
  float slope = 0.0f, scale = 1.0f;
};

template <class Type>
void take(const Info *info, const char *name, Type *out) {
  Status *missing = api.attribute(info, name, out);
  if (missing) api.release(missing);  // the default stands
}

void take(const Info *info, const char *name, const std::vector<const char *> &words, int32_t *out) {
  char text[32] = {};
  size_t size = sizeof(text);
  Status *missing = api.attribute(info, name, text, &size);
  if (missing) {
    api.release(missing);
    return;
  }
  for (size_t place = 0; place < words.size(); ++place) {
    if (std::strcmp(text, words[place]) == 0) {
      *out = static_cast<int32_t>(place);
      return;
    }
  }
  throw Refusal{api.fail((std::string("unknown ") + name + " '" + text + "'").c_str())};
}

Settings settings_of(const Info *info) {
  Settings settings;
  take(info, "reduce", {"sum", "mean", "max", "min", "prod"}, &settings.reduce);
  take(info, "score", {"given", "gat", "gatv2", "dot"}, &settings.score);
  take(info, "activation", {"identity", "relu", "leaky_relu", "elu"}, &settings.activation);
  take(info, "heads", &settings.heads);
  take(info, "slope", &settings.slope);
  take(info, "scale", &settings.scale);
  return settings;
}

gnx_epilogue epilogue_of(const Settings &settings, const Tensor &root, const Tensor &bias, int64_t rows,
                         int64_t width) {
  return {floats(root, rows * width, "root has another size than the result"),
          floats(bias, width, "bias has another size than a row"), settings.activation, settings.slope};
}

int32_t type_of(const Tensor &x) {
  switch (x.type) {
    case ort::FLOAT: return GNX_F32;
    case ort::BFLOAT16: return GNX_BF16;
    case ort::FLOAT16: return GNX_F16;
    case ort::INT8: return GNX_I8;
    default: throw Refusal{api.fail("rows have to be float32, bfloat16, float16 or int8")};
  }
}

std::vector<int64_t> rows_like(const Tensor &x, int64_t rows) {
  std::vector<int64_t> sizes = x.sizes;
  demand(!sizes.empty(), "x has no rows");
  sizes[0] = rows;
  return sizes;
}

// Inputs: x, rowptr, col, weight?, root?, bias?, row_scale?, column_scale?
void aggregate(const Settings &settings, Context *context) {
  const Tensor x = read(context, 0), rowptr = read(context, 1), col = read(context, 2), weight = read(context, 3);
  gnx_aggregate work{};
  work.csr = structure(rowptr, col, x.rows());
  work.x = x.data;
  work.width = x.width();
  work.type = type_of(x);
  work.reduce = settings.reduce;
  work.heads = weight && weight.sizes.size() > 1 ? weight.width() : 1;
  work.weight = floats(weight, work.csr.num_slots * work.heads, "there has to be a weight for each slot and head");
  work.row_scale = floats(read(context, 6), x.rows(), "there has to be a scale for each row");
  work.column_scale = floats(read(context, 7), work.width, "there has to be a scale for each column");
  work.epilogue = epilogue_of(settings, read(context, 4), read(context, 5), work.csr.num_rows, work.width);
  work.out = write<float>(context, 0, rows_like(x, work.csr.num_rows));
  const gnx_threads threads = threads_of(context);
  demand_kernel(gnx_run_aggregate(&work, &threads));
}

// Inputs: messages, rowptr, root?, bias?
void reduce_edges(const Settings &settings, Context *context) {
  const Tensor x = read(context, 0), rowptr = read(context, 1);
  gnx_aggregate work{};
  work.csr = structure(rowptr, Tensor(), x.rows());
  work.x = x.data;
  work.width = x.width();
  work.type = type_of(x);
  work.reduce = settings.reduce;
  work.heads = 1;
  work.epilogue = epilogue_of(settings, read(context, 2), read(context, 3), work.csr.num_rows, work.width);
  work.out = write<float>(context, 0, rows_like(x, work.csr.num_rows));
  const gnx_threads threads = threads_of(context);
  demand_kernel(gnx_run_aggregate(&work, &threads));
}

// Inputs: x, rowptr, col, source?, destination?, edge?, edge_value?, att?, root?, bias?
void attention(const Settings &settings, Context *context) {
  const Tensor x = read(context, 0), rowptr = read(context, 1), col = read(context, 2);
  demand(x.type == ort::FLOAT && static_cast<bool>(col), "x has to be float32, and col has to be there");
  gnx_attention work{};
  work.csr = structure(rowptr, col, x.rows());
  work.x = static_cast<const float *>(x.data);
  work.width = x.width();
  work.heads = settings.heads;
  work.score = settings.score;
  work.slope = settings.slope;
  work.scale = settings.scale;
  const bool by_head = settings.score == GNX_GIVEN || settings.score == GNX_GAT;
  const int64_t terms = by_head ? work.heads : work.width;
  const char *message = "the terms of the scores have another size";
  work.source = floats(read(context, 3), x.rows() * terms, message);
  work.destination = floats(read(context, 4), work.csr.num_rows * terms, message);
  work.edge = floats(read(context, 5), work.csr.num_slots * terms, message);
  work.edge_value = floats(read(context, 6), work.csr.num_slots * work.width, message);
  work.att = floats(read(context, 7), work.width, message);
  // Which slope belongs to the scores and which to the activation would be unclear: relu and elu need none.
  demand(settings.activation != GNX_LEAKY_RELU, "attention is followed by identity, relu or elu");
  work.epilogue = epilogue_of(settings, read(context, 8), read(context, 9), work.csr.num_rows, work.width);
  work.out = write<float>(context, 0, rows_like(x, work.csr.num_rows));
  const gnx_threads threads = threads_of(context);
  demand_kernel(gnx_run_attention(&work, &threads));
}

// Inputs: logits, rowptr
void edge_softmax(const Settings &, Context *context) {
  const Tensor logits = read(context, 0), rowptr = read(context, 1);
  const float *scores = floats(logits, logits.count(), "logits have to be float32");
  const gnx_csr csr = structure(rowptr, Tensor(), logits.rows());
  float *out = write<float>(context, 0, logits.sizes);
  const gnx_threads threads = threads_of(context);
  demand_kernel(gnx_run_softmax(&csr, scores, logits.width(), out, &threads));
}

// Inputs: dst, num_dst
void build_csr(const Settings &, Context *context) {
  const Tensor dst = read(context, 0), num_dst = read(context, 1);
  demand(dst.type == ort::INT64 && dst.sizes.size() == 1, "dst has to be a row of int64");
  demand(num_dst.type == ort::INT64 && num_dst.count() == 1, "num_dst has to be one int64");
  const int64_t rows = *static_cast<const int64_t *>(num_dst.data);
  demand(rows >= 0, "num_dst is negative");
  int64_t *rowptr = write<int64_t>(context, 0, {rows + 1});
  int64_t *perm = write<int64_t>(context, 1, {dst.rows()});
  const gnx_threads threads = threads_of(context);
  demand_kernel(gnx_build_csr(dst.data, dst.rows(), rows, 64, rowptr, perm, &threads));
}

// Inputs: x, rowptr. Row i of x is repeated for each of its slots.
void gather_destination(const Settings &, Context *context) {
  const Tensor x = read(context, 0), rowptr = read(context, 1);
  demand(x.type == ort::FLOAT, "x has to be float32");
  const gnx_csr csr = structure(rowptr, Tensor(), 0);
  demand(csr.num_rows == x.rows(), "rowptr has to have one number more than x has rows");
  const auto pointer = [&](int64_t row) -> int64_t {
    return csr.index_bits == 32 ? static_cast<const int32_t *>(csr.rowptr)[row]
                                : static_cast<const int64_t *>(csr.rowptr)[row];
  };
  bool rises = pointer(0) == 0;
  for (int64_t row = 0; row < csr.num_rows; ++row) rises &= pointer(row) <= pointer(row + 1);
  demand(rises, gnx_message(GNX_INDEX));
  const int64_t width = x.width();
  float *out = write<float>(context, 0, rows_like(x, pointer(csr.num_rows)));
  const float *from = static_cast<const float *>(x.data);
  for (int64_t row = 0; row < csr.num_rows; ++row, from += width) {
    for (int64_t slot = pointer(row); slot < pointer(row + 1); ++slot, out += width)
      std::memcpy(out, from, width * sizeof(float));
  }
}

using Compute = void (*)(const Settings &, Context *);

struct Operator : CustomOp {
  const char *text;
  std::vector<ort::Type> inputs, outputs;
  size_t required;
  Compute run;
};

struct Kernel {
  Settings settings;
  Compute run;
};

const Operator &of(const CustomOp *op) { return *static_cast<const Operator *>(op); }

// Run something that may refuse, and say so to the runtime.
template <class Call>
Status *answer(Call call) {
  try {
    call();
    return nullptr;
  } catch (const Refusal &refusal) {
    return refusal.status;
  } catch (const std::bad_alloc &) {
    return api.fail(gnx_message(GNX_MEMORY));
  }
}

Status *create(const CustomOp *op, const void *, const Info *info, void **kernel) {
  return answer([&] { *kernel = new Kernel{settings_of(info), of(op).run}; });
}

Status *compute(void *kernel, Context *context) {
  const Kernel &self = *static_cast<Kernel *>(kernel);
  return answer([&] { self.run(self.settings, context); });
}

Operator describe(const char *name, std::vector<ort::Type> inputs, size_t required, std::vector<ort::Type> outputs,
                  Compute run) {
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
  op.output_presence = [](const CustomOp *, size_t) { return ort::REQUIRED; };
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
  op.run = run;
  return op;
}

const std::vector<Operator> &operators() {
  using ort::ANY;
  using ort::FLOAT;
  using ort::INT64;
  static const std::vector<Operator> all = {
      describe("Aggregate", {ANY, ANY, ANY, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, 3, {FLOAT}, aggregate),
      describe("ReduceEdges", {ANY, ANY, FLOAT, FLOAT}, 2, {FLOAT}, reduce_edges),
      describe("Attention", {FLOAT, ANY, ANY, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, 3, {FLOAT}, attention),
      describe("EdgeSoftmax", {FLOAT, ANY}, 2, {FLOAT}, edge_softmax),
      describe("Csr", {INT64, INT64}, 2, {INT64, INT64}, build_csr),
      describe("GatherDestination", {FLOAT, ANY}, 2, {FLOAT}, gather_destination),
  };
  return all;
}

}  // namespace

extern "C" GNX_API Status *RegisterCustomOps(ort::Options *options, const ort::ApiBase *base) {
  const void *const *table = base->get_api(ort::VERSION);
  // A runtime that old has no way to make a status either; loading the model then says which operator is missing.
  if (!table) return nullptr;
  api = ort::Api(table);
  static ort::Domain *domain = nullptr;
  return answer([&] {
    if (!domain) {
      demand(api.create_domain("gnnexport", &domain));
      for (const Operator &op : operators()) demand(api.add(domain, &op));
    }
    demand(api.add(options, domain));
  });
}
