// The operators of the domain `gnnexport`, for any runtime that calls the kernels: what their inputs and attributes
// mean, which sizes they have, and how the kernels are called.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "gnnexport/kernels.h"

namespace gnx {

enum class Element { F32, BF16, F16, I8, U8, I32, I64, OTHER };

struct Tensor {
  const void *data = nullptr;  // null: an input that was left out
  Element element = Element::OTHER;
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

// What a runtime gives to one call of an operator.
class Host {
 public:
  virtual Tensor read(size_t place) const = 0;
  // A constant input, laid out for products; null where it was left out.
  virtual const gnx_matrix *matrix(size_t place) const = 0;
  virtual void *write(size_t place, Element element, const std::vector<int64_t> &sizes) = 0;
  virtual gnx_threads threads() const = 0;

 protected:
  ~Host() = default;
};

// A mistake in a model: said by the runtime with the node's name.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void demand(bool holds, const char *message) {
  if (!holds) throw Refusal(message);
}

inline void demand_kernel(int32_t status) { demand(status == GNX_OK, gnx_message(status)); }

struct FreeMatrix {
  void operator()(gnx_matrix *matrix) const { gnx_free_matrix(matrix); }
};

using Matrix = std::unique_ptr<gnx_matrix, FreeMatrix>;

// Lay a constant input out for products; levels are always dense.
inline Matrix packed(const Tensor &tensor, int32_t layout) {
  const bool levels = tensor.element == Element::I8;
  demand((levels || tensor.element == Element::F32) && tensor.sizes.size() == 2,
         "weights have to be a matrix of float32, or of int8 where they are levels");
  gnx_matrix *made = nullptr;
  const int64_t out_width = tensor.sizes[0], width = tensor.sizes[1];
  demand_kernel(levels ? gnx_pack_levels(static_cast<const int8_t *>(tensor.data), out_width, width, &made)
                       : gnx_pack_matrix(static_cast<const float *>(tensor.data), out_width, width, layout, &made));
  return Matrix(made);
}

// Words of attributes, in the order of their enumeration.
constexpr std::array<const char *, 5> REDUCTIONS = {"sum", "mean", "max", "min", "prod"};
constexpr std::array<const char *, 4> SCORES = {"given", "gat", "gatv2", "dot"};
constexpr std::array<const char *, 4> ACTIVATIONS = {"identity", "relu", "leaky_relu", "elu"};
constexpr std::array<const char *, 3> LAYOUTS = {"dense", "sparse", "blocks"};

template <class Words>
int32_t number_of(const Words &words, const char *name, const std::string &text) {
  for (size_t place = 0; place < words.size(); ++place)
    if (text == words[place]) return static_cast<int32_t>(place);
  throw Refusal(std::string("unknown ") + name + " '" + text + "'");
}

// What a node says besides its inputs.
struct Settings {
  int32_t reduce = GNX_SUM, score = GNX_GIVEN, activation = GNX_IDENTITY;
  int64_t heads = 1;
  int64_t one_loop = 0, normalise = 0;
  float slope = 0.0f, scale = 1.0f, fill = 1.0f;
  int64_t bits = 8, zero = 0;
  int64_t rows_signed = 0, own_signed = 0, nearest = 0, next_bits = 0, next_zero = 0;
  int64_t given = 0, given_signed = 0;
  int32_t sum_activation = GNX_IDENTITY;
  float sum_slope = 0.0f;
  std::array<int32_t, 2> layouts = {GNX_DENSE, GNX_DENSE};  // of the matrices that products read, in their order
};

namespace operators {

inline const float *floats(const Tensor &tensor, int64_t count, const char *message) {
  if (!tensor) return nullptr;
  demand(tensor.element == Element::F32 && tensor.count() == count, message);
  return static_cast<const float *>(tensor.data);
}

// Rows are gathered from everywhere in what is written: pages of two megabytes cost far fewer look-ups of addresses. It
// is a wish, so that a refusal is nobody's concern.
inline void on_large_pages(void *data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t PAGE = 1 << 21;
  const auto begin = (reinterpret_cast<uintptr_t>(data) + PAGE - 1) / PAGE * PAGE;
  const auto end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / PAGE * PAGE;
  if (end > begin) madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

inline float *write_floats(Host &host, const std::vector<int64_t> &sizes) {
  void *const data = host.write(0, Element::F32, sizes);
  int64_t bytes = sizeof(float);
  for (const int64_t size : sizes) bytes *= size;
  on_large_pages(data, bytes);
  return static_cast<float *>(data);
}

inline gnx_csr structure(const Tensor &rowptr, const Tensor &col, int64_t num_src) {
  const bool known = rowptr.element == Element::I32 || rowptr.element == Element::I64;
  demand(known && rowptr.sizes.size() == 1 && rowptr.rows() > 0, "rowptr has to be a row of int32 or int64");
  if (col) demand(col.element == rowptr.element && col.sizes.size() == 1, "col has to be a row of rowptr's type");
  return {rowptr.data, col.data,           rowptr.rows() - 1, col ? col.rows() : num_src,
          num_src,     rowptr.element == Element::I32 ? 32 : 64};
}

inline gnx_epilogue epilogue_of(const Settings &settings, const Tensor &root, const Tensor &bias, int64_t rows,
                                int64_t width) {
  return {floats(root, rows * width, "root has another size than the result"),
          floats(bias, width, "bias has another size than a row"), settings.activation, settings.slope, nullptr};
}

inline int32_t type_of(const Tensor &x) {
  switch (x.element) {
    case Element::F32: return GNX_F32;
    case Element::BF16: return GNX_BF16;
    case Element::F16: return GNX_F16;
    case Element::I8: return GNX_I8;
    default: throw Refusal("rows have to be float32, bfloat16, float16 or int8");
  }
}

inline std::vector<int64_t> rows_like(const Tensor &x, int64_t rows) {
  std::vector<int64_t> sizes = x.sizes;
  demand(!sizes.empty(), "x has no rows");
  sizes[0] = rows;
  return sizes;
}

// What x, rowptr, col and weight? say is reduced, the first four inputs.
inline gnx_aggregate reduction(const Settings &settings, const Host &host, const Tensor &x) {
  const Tensor rowptr = host.read(1), col = host.read(2), weight = host.read(3);
  gnx_aggregate work{};
  work.csr = structure(rowptr, col, x.rows());
  work.x = x.data;
  work.width = x.width();
  work.type = type_of(x);
  work.reduce = settings.reduce;
  work.heads = weight && weight.sizes.size() > 1 ? weight.width() : 1;
  work.weight = floats(weight, work.csr.num_slots * work.heads, "there has to be a weight for each slot and head");
  return work;
}

// Inputs: x, rowptr, col, weight?, root?, bias?, row_scale?, column_scale?
inline void aggregate(const Settings &settings, Host &host) {
  const Tensor x = host.read(0);
  gnx_aggregate work = reduction(settings, host, x);
  work.row_scale = floats(host.read(6), x.rows(), "there has to be a scale for each row");
  work.column_scale = floats(host.read(7), work.width, "there has to be a scale for each column");
  work.epilogue = epilogue_of(settings, host.read(4), host.read(5), work.csr.num_rows, work.width);
  work.out = write_floats(host, rows_like(x, work.csr.num_rows));
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_aggregate(&work, &threads));
}

// Input: x.
inline void round_to(int32_t type, Element element, Host &host) {
  const Tensor x = host.read(0);
  const float *const values = floats(x, x.count(), "x has to be float32");
  void *const out = host.write(0, element, x.sizes);
  on_large_pages(out, x.count() * static_cast<int64_t>(sizeof(uint16_t)));
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_round(values, x.count(), type, static_cast<uint16_t *>(out), &threads));
}

inline void round_bfloat16(const Settings &, Host &host) { round_to(GNX_BF16, Element::BF16, host); }

inline void round_float16(const Settings &, Host &host) { round_to(GNX_F16, Element::F16, host); }

constexpr size_t MATRIX = 4, OWN_MATRIX = 6;  // inputs of aggregate_linear
constexpr size_t LINEAR_MATRIX = 1;           // of linear

// Inputs: x, rowptr, col, weight?, matrix, own?, own_matrix?, root?, bias?
inline void aggregate_linear(const Settings &settings, Host &host) {
  const Tensor x = host.read(0), matrix = host.read(MATRIX), own = host.read(5), own_matrix = host.read(OWN_MATRIX);
  gnx_linear work{};
  work.sum = reduction(settings, host, x);
  work.matrix = host.matrix(MATRIX);
  work.own_matrix = host.matrix(OWN_MATRIX);
  const int64_t rows = work.sum.csr.num_rows, width = matrix.rows();
  demand(work.matrix && !own_matrix == !work.own_matrix, "matrices have to be constant");
  demand(!own == !own_matrix, "own and own_matrix belong together");
  if (own_matrix) work.own = floats(own, rows * own_matrix.width(), "own has another size than own_matrix");
  work.epilogue = epilogue_of(settings, host.read(7), host.read(8), rows, width);
  work.out = write_floats(host, {rows, width});
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_linear(&work, &threads));
}

// Inputs: x, matrix, root?, bias?
inline void linear(const Settings &settings, Host &host) {
  const Tensor x = host.read(0), matrix = host.read(LINEAR_MATRIX);
  gnx_linear work{};
  work.sum.csr.num_rows = x.rows();
  work.own_matrix = host.matrix(LINEAR_MATRIX);
  demand(work.own_matrix, "the matrix has to be constant");
  demand(x.sizes.size() == 2, "x has another size than the matrix");
  work.own = floats(x, x.rows() * matrix.width(), "x has another size than the matrix");
  work.epilogue = epilogue_of(settings, host.read(2), host.read(3), x.rows(), matrix.rows());
  work.out = write_floats(host, {x.rows(), matrix.rows()});
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_linear(&work, &threads));
}

// Inputs: messages, rowptr, root?, bias?
inline void reduce_edges(const Settings &settings, Host &host) {
  const Tensor x = host.read(0), rowptr = host.read(1);
  gnx_aggregate work{};
  work.csr = structure(rowptr, Tensor(), x.rows());
  work.x = x.data;
  work.width = x.width();
  work.type = type_of(x);
  work.reduce = settings.reduce;
  work.heads = 1;
  work.epilogue = epilogue_of(settings, host.read(2), host.read(3), work.csr.num_rows, work.width);
  work.out = write_floats(host, rows_like(x, work.csr.num_rows));
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_aggregate(&work, &threads));
}

// Inputs: x, rowptr, col, source?, destination?, edge?, edge_value?, att?, root?, bias?, and where x has levels their
// steps.
inline void attend(const Settings &settings, Host &host, Element element) {
  const Tensor x = host.read(0), rowptr = host.read(1), col = host.read(2);
  demand(x.element == element && static_cast<bool>(col), "x has to have the operator's type, and col has to be there");
  gnx_attention work{};
  work.csr = structure(rowptr, col, x.rows());
  work.x = x.data;
  work.width = x.width();
  if (element == Element::U8) {
    work.type = GNX_U8;
    work.zero = static_cast<int32_t>(settings.zero);
    work.column_scale = floats(host.read(10), work.width, "there has to be a step for each column");
  }
  work.heads = settings.heads;
  work.score = settings.score;
  work.slope = settings.slope;
  work.scale = settings.scale;
  const bool by_head = settings.score == GNX_GIVEN || settings.score == GNX_GAT;
  const int64_t terms = by_head ? work.heads : work.width;
  const char *message = "the terms of the scores have another size";
  work.source = floats(host.read(3), x.rows() * terms, message);
  work.destination = floats(host.read(4), work.csr.num_rows * terms, message);
  work.edge = floats(host.read(5), work.csr.num_slots * terms, message);
  work.edge_value = floats(host.read(6), work.csr.num_slots * work.width, message);
  work.att = floats(host.read(7), work.width, message);
  // Which slope belongs to the scores and which to the activation would be unclear: relu and elu need none.
  demand(settings.activation != GNX_LEAKY_RELU, "attention is followed by identity, relu or elu");
  work.epilogue = epilogue_of(settings, host.read(8), host.read(9), work.csr.num_rows, work.width);
  work.out = write_floats(host, rows_like(x, work.csr.num_rows));
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_attention(&work, &threads));
}

inline void attention(const Settings &settings, Host &host) { attend(settings, host, Element::F32); }

// Inputs: logits, rowptr
inline void edge_softmax(const Settings &, Host &host) {
  const Tensor logits = host.read(0), rowptr = host.read(1);
  const float *scores = floats(logits, logits.count(), "logits have to be float32");
  const gnx_csr csr = structure(rowptr, Tensor(), logits.rows());
  float *out = write_floats(host, logits.sizes);
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_softmax(&csr, scores, logits.width(), out, &threads));
}

inline int64_t number_in(const Tensor &tensor) {
  if (tensor.element == Element::I32) return *static_cast<const int32_t *>(tensor.data);
  return *static_cast<const int64_t *>(tensor.data);
}

// Inputs: dst, num_dst
inline void build_csr(const Settings &, Host &host) {
  const Tensor dst = host.read(0), num_dst = host.read(1);
  const bool narrow = dst.element == Element::I32;
  demand((narrow || dst.element == Element::I64) && dst.sizes.size() == 1, "dst has to be a row of int32 or int64");
  demand(num_dst.element == dst.element && num_dst.count() == 1, "num_dst has to be one number of dst's type");
  const int64_t rows = number_in(num_dst);
  demand(rows >= 0, "num_dst is negative");
  void *rowptr = host.write(0, dst.element, {rows + 1});
  void *perm = host.write(1, dst.element, {dst.rows()});
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_build_csr(dst.data, dst.rows(), rows, narrow ? 32 : 64, rowptr, perm, &threads));
}

// An output of 64 bits that is handed on in 32 where the host has made those of all integers, as OpenVINO does.
class Indices {
 public:
  Indices(Host &host, size_t place, Element element, int64_t count)
      : out_(host.write(place, element, {count})), kept_(element == Element::I32 ? count : 0) {}
  int64_t *data() { return kept_.empty() ? static_cast<int64_t *>(out_) : kept_.data(); }
  void hand_on() { std::copy(kept_.begin(), kept_.end(), static_cast<int32_t *>(out_)); }

 private:
  void *out_;
  std::vector<int64_t> kept_;
};

// Inputs: edge_index, num_nodes, weight?. Outputs: rowptr, col, and the weights where the node is `WeightedEdges`.
inline void prepare_edges(const Settings &settings, Host &host, bool weighted) {
  const Tensor index = host.read(0), num_nodes = host.read(1), weight = host.read(2);
  const bool narrow = index.element == Element::I32;
  demand((narrow || index.element == Element::I64) && index.sizes.size() == 2 && index.rows() == 2,
         "edge_index has to be two rows of int32 or int64");
  demand(num_nodes.element == index.element && num_nodes.count() == 1, "num_nodes has to be one number of that type");
  const auto *ends = static_cast<const int32_t *>(index.data);
  const std::vector<int64_t> wide(ends, ends + (narrow ? index.count() : 0));
  gnx_edges edges{};
  edges.num_edges = index.width();
  edges.num_nodes = number_in(num_nodes);
  demand(edges.num_nodes >= 0, "num_nodes is negative");
  edges.src = narrow ? wide.data() : static_cast<const int64_t *>(index.data);
  edges.dst = edges.src + edges.num_edges;
  edges.weight = floats(weight, edges.num_edges, "there has to be a weight for each edge");
  edges.loops = settings.one_loop ? GNX_LOOPS_ONE : GNX_LOOPS_KEPT;
  edges.fill = settings.fill;
  edges.normalise = settings.normalise != 0;
  demand_kernel(gnx_count_slots(&edges, &edges.num_slots));
  Indices rowptr(host, 0, index.element, edges.num_nodes + 1), col(host, 1, index.element, edges.num_slots);
  auto *out = weighted ? static_cast<float *>(host.write(2, Element::F32, {edges.num_slots})) : nullptr;
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_prepare_edges(&edges, rowptr.data(), col.data(), out, &threads));
  rowptr.hand_on();
  col.hand_on();
}

inline void edges(const Settings &settings, Host &host) { prepare_edges(settings, host, false); }

inline void weighted_edges(const Settings &settings, Host &host) { prepare_edges(settings, host, true); }

// Inputs: x, rowptr. Row i of x is repeated for each of its slots.
inline void gather_destination(const Settings &, Host &host) {
  const Tensor x = host.read(0), rowptr = host.read(1);
  demand(x.element == Element::F32, "x has to be float32");
  gnx_csr csr = structure(rowptr, Tensor(), 0);
  demand(csr.num_rows == x.rows(), "rowptr has to have one number more than x has rows");
  const int64_t slots = csr.index_bits == 32 ? static_cast<const int32_t *>(csr.rowptr)[csr.num_rows]
                                             : static_cast<const int64_t *>(csr.rowptr)[csr.num_rows];
  demand(slots >= 0, gnx_message(GNX_INDEX));
  csr.num_slots = slots;
  float *out = write_floats(host, rows_like(x, slots));
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_spread(&csr, static_cast<const float *>(x.data), x.width(), out, &threads));
}

}  // namespace operators
}  // namespace gnx
