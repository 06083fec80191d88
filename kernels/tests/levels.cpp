// Rows of levels: made, reduced, and multiplied with matrices of levels.
#include <functional>

#include "driver.hpp"

namespace {

struct Form {
  int32_t bits, zero;

  int64_t bytes(int64_t width) const { return bits == 4 ? (width + 1) / 2 : width; }
};

const Form FORMS[] = {{8, 0}, {8, 128}, {4, 0}, {4, 8}};

class Matrix {
 public:
  Matrix(int64_t out_width, int64_t width) {
    const std::vector<char> values = bytes(out_width * width);
    const auto *levels = reinterpret_cast<const int8_t *>(values.data());
    valid("matrix", gnx_pack_levels(levels, out_width, width, &made_));
  }
  ~Matrix() { gnx_free_matrix(made_); }
  Matrix(const Matrix &) = delete;
  Matrix &operator=(const Matrix &) = delete;
  const gnx_matrix *get() const { return made_; }

 private:
  gnx_matrix *made_ = nullptr;
};

std::vector<uint8_t> widths(int64_t count) {
  std::vector<uint8_t> out(static_cast<size_t>(count));
  for (uint8_t &bits : out) bits = static_cast<uint8_t>(1 + (next() >> 8) % 8);
  return out;
}

// A result of rows of floats, or of levels.
struct Out {
  std::vector<float> wide, step;
  std::vector<uint8_t> narrow;
  gnx_narrow next{};

  Out(int64_t rows, int64_t width, bool leaves_narrow, const Form &form) : step(floats(width)) {
    if (leaves_narrow) {
      narrow.resize(rows * form.bytes(width));
      next = {step.data(), form.bits, form.zero, narrow.data()};
    } else {
      wide.resize(rows * width);
    }
  }
};

void narrow(int64_t rows, int64_t width, int64_t choice) {
  const Form &form = FORMS[choice % 4];
  const std::vector<float> x = floats(rows * width), step = floats(rows);
  const std::vector<uint8_t> bits = widths(rows);
  std::vector<uint8_t> levels(rows * width);
  const Out out(rows, width, true, form);
  const gnx_given given{{step.data(), bits.data(), rows, static_cast<int32_t>(choice & 1), 0}, levels.data()};
  valid("narrow", gnx_run_narrow(x.data(), rows, width, &out.next, choice & 2 ? &given : nullptr, &THREADS[choice % 3]));
}

using Change = std::function<void(gnx_aggregate &)>;

int32_t reduce(const Graph &graph, const Form &form, int32_t reduce, int64_t width, int64_t choice,
               const Change &change = nullptr) {
  const Indices indices(graph, choice & 4 ? 32 : 64);
  const std::vector<char> x = bytes(graph.num_src * form.bytes(width));
  const std::vector<float> weight = floats(graph.slots()), of_rows = floats(graph.num_src), step = floats(width);
  const std::vector<float> root = floats(graph.rows() * width), bias = floats(width), scale = floats(graph.rows());
  Out out(graph.rows(), width, choice & 32, FORMS[choice / 64 % 4]);
  const bool adds = reduce == GNX_SUM || reduce == GNX_MEAN;
  gnx_aggregate work{};
  work.csr = indices.csr, work.x = x.data(), work.width = width, work.type = form.bits == 8 ? GNX_U8 : GNX_U4;
  work.reduce = reduce, work.heads = 1, work.zero = form.zero, work.out = out.wide.data(), work.next = out.next;
  if (adds && choice & 8) work.weight = weight.data();
  if (adds && choice & 16) work.row_scale = of_rows.data();
  if (choice & 1) work.column_scale = step.data();
  work.epilogue = {choice & 1 ? root.data() : nullptr, choice & 2 ? bias.data() : nullptr,
                   static_cast<int32_t>(choice % 4), 0.5f, choice & 2 ? scale.data() : nullptr};
  if (change) change(work);
  return gnx_run_aggregate(&work, &THREADS[choice % 3]);
}

struct Sizes {
  int64_t width, out_width, own_width;
};

enum Parts { REDUCED = 1, OWN = 2, BOTH = 3 };

int32_t multiply(const Graph &graph, Parts parts, const Sizes &sizes, int64_t choice) {
  const Form &form = FORMS[choice / 16 % 4];
  const Indices indices(graph, choice & 4 ? 32 : 64);
  const Matrix matrix(sizes.out_width, sizes.width), own_matrix(sizes.out_width, sizes.own_width);
  const int64_t count = choice & 8 ? graph.rows() + 1 : 5;
  const std::vector<float> step = floats(count), of_matrix = floats(sizes.out_width), scale = floats(graph.rows());
  const std::vector<uint8_t> bits = widths(count);
  const std::vector<char> levels = bytes(graph.num_src * form.bytes(sizes.width));
  const std::vector<float> x = floats(graph.rows() * sizes.width), own = floats(graph.rows() * sizes.own_width);
  Out out(graph.rows(), sizes.out_width, choice & 64, form);
  const gnx_quantiser quantiser{step.data(), bits.data(), count, static_cast<int32_t>(choice & 1),
                                static_cast<int32_t>(choice & 2)};
  gnx_level_linear work{};
  work.sum.csr = indices.csr, work.sum.x = levels.data(), work.sum.width = sizes.width, work.sum.heads = 1;
  work.sum.type = form.bits == 8 ? GNX_U8 : GNX_U4, work.sum.zero = form.zero;
  work.sum.epilogue.scale = scale.data();
  gnx_quantiser by_row = quantiser;
  by_row.nearest = 0;
  const std::vector<uint8_t> own_levels(graph.rows() * sizes.own_width, 200);
  std::vector<uint8_t> given(graph.rows() * sizes.out_width);
  work.product = {parts & REDUCED ? nullptr : x.data(), nullptr, quantiser, matrix.get(), of_matrix.data()};
  if (parts & OWN) work.own = {own.data(), nullptr, quantiser, own_matrix.get(), of_matrix.data()};
  if (parts & OWN && choice & 128) work.own = {nullptr, own_levels.data(), by_row, own_matrix.get(), of_matrix.data()};
  if (choice & 256) work.given = {by_row, given.data()};
  work.epilogue.scale = scale.data(), work.out = out.wide.data(), work.next = out.next;
  return gnx_run_level_linear(&work, &THREADS[choice % 3]);
}

int32_t attend(const Graph &graph, int64_t width, int64_t choice) {
  const Indices indices(graph, 64);
  const std::vector<char> x = bytes(graph.num_src * width);
  const std::vector<float> scores = floats(graph.slots()), step = floats(width);
  std::vector<float> out(static_cast<size_t>(graph.rows() * width));
  gnx_attention work{};
  work.csr = indices.csr, work.x = x.data(), work.width = width, work.heads = 1, work.edge = scores.data();
  work.out = out.data(), work.type = GNX_U8, work.zero = choice & 1 ? 128 : 0, work.column_scale = step.data();
  return gnx_run_attention(&work, &THREADS[choice % 3]);
}

void refuse() {
  const Graph fine = hub(1200);
  for (int64_t slot : {int64_t{0}, int64_t{1021}, fine.slots() - 1}) {
    for (int64_t bad : {int64_t{-1}, int64_t{50}, int64_t{INT32_MAX}}) {
      Graph graph = fine;
      graph.col[slot] = bad;
      for (const Form &form : FORMS) refused("column", reduce(graph, form, GNX_SUM, 257, 4));
    }
  }
  const std::vector<Change> changes = {
      [](gnx_aggregate &work) { work.x = nullptr; },     [](gnx_aggregate &work) { work.out = nullptr; },
      [](gnx_aggregate &work) { work.zero = 1; },        [](gnx_aggregate &work) { work.heads = 3; },
      [](gnx_aggregate &work) { work.reduce = GNX_PROD; }, [](gnx_aggregate &work) { work.width = INT64_MAX; },
  };
  for (const Change &change : changes) refused("argument", reduce(fine, FORMS[1], GNX_SUM, 6, 0, change));
  gnx_matrix *made = nullptr;
  const int8_t level = 1;
  refused("matrix", gnx_pack_levels(&level, 1, (1 << 16) + 1, &made));
  refused("matrix", gnx_pack_levels(nullptr, 1, 1, &made));
  refused("matrix", gnx_pack_levels(&level, -1, 1, &made));
}

}  // namespace

void run_levels() {
  for (int64_t width : {1, 2, 15, 16, 17, 33, 257}) narrow(300, width, next() >> 8);
  for (const Graph &graph : graphs()) {
    for (int64_t width : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 200, 257, 600}) {
      for (const Form &form : FORMS) {
        for (int32_t kind = GNX_SUM; kind <= GNX_MIN; ++kind)
          valid(graph.name, reduce(graph, form, kind, width, next() >> 8));
      }
      valid(graph.name, attend(graph, width, next() >> 8));
      for (Parts parts : {REDUCED, OWN, BOTH}) {
        const int64_t out_width = 1 + (next() >> 8) % 70;
        valid(graph.name, multiply(graph, parts, {width, out_width, out_width + 1}, next() >> 8));
      }
    }
  }
  for (const Form &form : FORMS) {
    for (int64_t choice : {0, 8, 32, 57}) valid("hub", reduce(hub(20000), form, choice & 1, 65, choice));
  }
  for (int64_t choice = 0; choice < 128; choice += 9) valid("hub", multiply(hub(16500), BOTH, {257, 9, 0}, choice));
  valid("nothing", multiply(hub(40), BOTH, {0, 9, 0}, 3));
  valid("nowhere", multiply(hub(40), BOTH, {7, 0, 3}, 3));
  refuse();
}
