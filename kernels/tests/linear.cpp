// Products with matrices of weights, with reduced rows and with rows as they are.
#include <cstring>
#include <functional>

#include "driver.hpp"

namespace {

const int64_t TYPE_BYTES[] = {4, 2, 2, 1};

// Weights of any bits, of which a layout other than the dense one finds most to be zero.
class Matrix {
 public:
  Matrix(int64_t out_width, int64_t width, int32_t layout = GNX_DENSE) {
    std::vector<float> values = floats(out_width * width);
    for (int64_t place = 0; layout != GNX_DENSE && place < out_width * width; ++place) {
      const uint32_t run = static_cast<uint32_t>(place / width / 16 * 31 + place % width);
      if ((layout == GNX_BLOCKS ? run * 2654435761u : next()) >> 30) values[place] = 0.0f;
    }
    valid("matrix", gnx_pack_matrix(values.data(), out_width, width, layout, &made_));
  }
  ~Matrix() { gnx_free_matrix(made_); }
  Matrix(const Matrix &) = delete;
  Matrix &operator=(const Matrix &) = delete;
  const gnx_matrix *get() const { return made_; }

 private:
  gnx_matrix *made_ = nullptr;
};

struct Sizes {
  int64_t width, out_width, own_width, heads;
};

using Change = std::function<void(gnx_linear &)>;

enum Parts { REDUCED = 1, OWN = 2, BOTH = 3 };

int32_t multiply(const Graph &graph, Parts parts, int32_t type, const Sizes &sizes, int64_t choice,
                 const Change &change = nullptr) {
  const Indices indices(graph, choice & 4 ? 32 : 64);
  const int32_t layout = choice / 32 % 3, own_layout = choice / 128 % 3;
  const Matrix matrix(sizes.out_width, sizes.width, layout), own_matrix(sizes.out_width, sizes.own_width, own_layout);
  const std::vector<char> x = bytes(graph.num_src * sizes.width * TYPE_BYTES[type]);
  const std::vector<float> weight = floats(graph.slots() * sizes.heads), own = floats(graph.rows() * sizes.own_width);
  const std::vector<float> root = floats(graph.rows() * sizes.out_width), bias = floats(sizes.out_width);
  std::vector<float> out(root.size());
  gnx_linear work{};
  if (parts & REDUCED) {
    work.sum.csr = indices.csr, work.sum.x = x.data(), work.sum.width = sizes.width, work.sum.heads = sizes.heads;
    work.sum.type = type, work.sum.reduce = choice & 16 ? GNX_MEAN : GNX_SUM, work.matrix = matrix.get();
    if (sizes.heads > 1 || choice & 8) work.sum.weight = weight.data();
  }
  if (parts & OWN) work.own = own.data(), work.own_matrix = own_matrix.get();
  work.sum.csr.num_rows = graph.rows();
  work.epilogue = {choice & 1 ? root.data() : nullptr, choice & 2 ? bias.data() : nullptr,
                   static_cast<int32_t>(choice % 4), 0.5f, nullptr};
  work.out = out.data();
  if (change) change(work);
  return gnx_run_linear(&work, &THREADS[choice % 3]);
}

void refuse_arguments(int64_t choice) {
  const Graph graph = graphs()[3];
  const Sizes sizes{6, 5, 4, 2};
  const Matrix wider(5, 7), taller(6, 4);
  const std::vector<Change> changes = {
      [](gnx_linear &work) { work.matrix = work.own_matrix = nullptr; },
      [](gnx_linear &work) { work.own = nullptr; },
      [](gnx_linear &work) { work.out = nullptr; },
      [](gnx_linear &work) { work.sum.x = nullptr; },
      [](gnx_linear &work) { work.sum.csr.rowptr = nullptr; },
      [](gnx_linear &work) { work.sum.csr.num_slots += 1; },
      [](gnx_linear &work) { work.sum.csr.num_rows = -1; },
      [](gnx_linear &work) { work.sum.csr.num_rows = INT64_MAX; },
      [](gnx_linear &work) { work.sum.width += 2; },
      [](gnx_linear &work) { work.sum.width = -6; },
      [](gnx_linear &work) { work.sum.heads = 4; },
      [](gnx_linear &work) { work.sum.type = 6; },
      [](gnx_linear &work) { work.sum.reduce = 9; },
      [](gnx_linear &work) { work.epilogue.activation = -1; },
      [&](gnx_linear &work) { work.matrix = wider.get(); },
      [&](gnx_linear &work) { work.own_matrix = taller.get(); },
  };
  for (const Change &change : changes) refused("linear", multiply(graph, BOTH, GNX_F32, sizes, choice, change));
}

// Structures that lie, where a hub is cut and where it is not.
void refuse_structures(int64_t choice) {
  const Graph fine = hub(4100);
  const Sizes sizes{257, 3, 2, 1};
  for (int64_t slot : {int64_t{0}, int64_t{4080}, fine.slots() - 1}) {
    for (int64_t bad : {int64_t{-1}, int64_t{50}, int64_t{INT32_MAX}}) {
      Graph graph = fine;
      graph.col[slot] = bad;
      for (int32_t type = GNX_F32; type <= GNX_I8; ++type)
        refused("column", multiply(graph, BOTH, type, sizes, choice));
    }
  }
  for (size_t row : {size_t{0}, size_t{1}, size_t{20}, size_t{39}}) {
    Graph lie = fine;
    lie.rowptr[row] = fine.slots() + 1;
    const Indices indices(lie, choice & 4 ? 32 : 64);
    const auto change = [&](gnx_linear &work) { work.sum.csr.rowptr = indices.csr.rowptr; };
    refused("rowptr", multiply(fine, REDUCED, GNX_F32, sizes, choice, change));
  }
}

void refuse_matrices() {
  const std::vector<float> values(6);
  gnx_matrix *made = nullptr;
  for (int32_t layout : {GNX_DENSE, GNX_SPARSE, GNX_BLOCKS}) {
    refused("matrix", gnx_pack_matrix(values.data(), 2, 3, layout, nullptr));
    refused("matrix", gnx_pack_matrix(nullptr, 2, 3, layout, &made));
    for (int64_t bad : {int64_t{-1}, int64_t{INT64_MIN}, int64_t{INT64_MAX}, int64_t{INT32_MAX} + 1}) {
      refused("matrix", gnx_pack_matrix(values.data(), bad, 3, layout, &made));
      refused("matrix", gnx_pack_matrix(values.data(), 2, bad, layout, &made));
    }
  }
  for (int32_t layout : {-1, GNX_BLOCKS + 1, INT32_MAX, INT32_MIN})
    refused("matrix", gnx_pack_matrix(values.data(), 2, 3, layout, &made));
  expect(made == nullptr, "matrix", GNX_OK);
  gnx_free_matrix(nullptr);
  refused("linear", gnx_run_linear(nullptr, nullptr));
}

// Matrices of two instruction sets, of which one is the portable one.
void refuse_mixtures() {
  const char *const path = gnx_path();
  if (std::strcmp(path, "portable") == 0) return;
  valid("path", gnx_use_path("portable"));
  const Matrix other(5, 6);
  valid("path", gnx_use_path(path));
  const auto change = [&](gnx_linear &work) { work.matrix = other.get(); };
  refused("mixture", multiply(graphs()[3], BOTH, GNX_F32, {6, 5, 4, 1}, 0, change));
}

// Rows that several tasks share, whatever their type and reduction.
void run_hubs() {
  const Graph graph = hub(16500);
  for (int32_t type = GNX_F32; type <= GNX_I8; ++type) {
    for (int32_t reduce = GNX_SUM; reduce <= GNX_PROD; ++reduce) {
      const auto change = [=](gnx_linear &work) {
        work.sum.reduce = reduce;
        work.epilogue.root = work.out;
      };
      valid("hub", multiply(graph, BOTH, type, {257, 9, 0, 1}, type + 4 * (reduce % 2), change));
    }
  }
}

// Every two layouts side by side, where weights fill several chunks of inputs.
void run_layouts() {
  const Graph graph = hub(4100);
  for (int64_t layouts = 0; layouts < 16; ++layouts) {
    for (int64_t choice = 0; choice < 6; ++choice)
      valid("layouts", multiply(graph, BOTH, GNX_F32, {257, 67, 331, 1}, layouts % 4 * 32 + layouts / 4 * 128 + choice));
  }
}

// Outputs without columns, of however many rows.
void run_nowhere() {
  const auto change = [](gnx_linear &work) {
    work.own = work.out = nullptr;
    work.sum.csr.num_rows = int64_t{1} << 54;
  };
  valid("nowhere", multiply(graphs()[1], OWN, GNX_F32, {1, 0, 7, 1}, 1, change));
}

}  // namespace

void run_linear() {
  for (const Graph &graph : graphs()) {
    for (int64_t width : {0, 1, 3, 16, 17, 33, 65, 130}) {
      for (int64_t out_width : {0, 1, 5, 16, 33, 64, 100}) {
        for (Parts parts : {REDUCED, OWN, BOTH})
          valid(graph.name, multiply(graph, parts, GNX_F32, {width, out_width, out_width + 1, 1}, next() >> 8));
      }
      for (int32_t type = GNX_F32; type <= GNX_I8; ++type)
        valid(graph.name, multiply(graph, BOTH, type, {3 * width, 7, width, 3}, next() >> 8));
    }
  }
  const Graph large = hub(4100);  // its hub is cut
  for (int64_t choice = 0; choice < 6; ++choice) valid("hub", multiply(large, BOTH, GNX_F32, {257, 9, 0, 1}, choice));
  // More rows than one task multiplies.
  Graph rows{"rows", std::vector<int64_t>(701, 0), {}, 0};
  for (int64_t choice = 0; choice < 6; ++choice) valid("rows", multiply(rows, OWN, GNX_F32, {1, 40, 50, 1}, choice));
  for (int64_t choice : {0, 1, 2, 4, 5}) refuse_arguments(choice);
  for (int64_t choice : {0, 1, 5}) refuse_structures(choice);
  run_hubs();
  run_layouts();
  run_nowhere();
  refuse_matrices();
  refuse_mixtures();
}
