// Edges as they come, made ready for aggregation: sorted by destination, with loops and weights as a GCN wants them.
#include <algorithm>
#include <cmath>
#include <vector>

#include "checks.hpp"
#include "sort.hpp"

namespace gnx {
namespace {

constexpr int64_t ROWS = 1 << 13;  // of one task

bool is_loop(const gnx_edges &edges, int64_t edge) { return edges.src[edge] == edges.dst[edge]; }

class Preparation {
 public:
  Preparation(const gnx_edges &edges, const gnx_threads *threads) : edges_(edges), threads_(threads) {}

  int32_t run(int64_t *rowptr, int64_t *col, float *weight) {
    rowptr_ = rowptr;
    col_ = col;
    weight_ = weight;
    const bool one_loop = edges_.loops == GNX_LOOPS_ONE;
    // Copies of all they read: through `this` the compiler would have to fetch it again after every write.
    const auto row_of = [one_loop, edges = edges_](int64_t edge) {
      return one_loop && is_loop(edges, edge) ? Sorted::DROPPED : edges.dst[edge];
    };
    const auto checked = [row_of, edges = edges_](int64_t edge) {
      const auto known = [&](int64_t node) { return node >= 0 && node < edges.num_nodes; };
      return known(edges.src[edge]) && known(edges.dst[edge]) ? row_of(edge) : Sorted::WRONG;
    };
    Sorted sort(edges_.num_edges, edges_.num_nodes, threads_);
    if (!sort.count(checked, rowptr_, one_loop)) return GNX_INDEX;
    if (rowptr_[edges_.num_nodes] != edges_.num_slots) return GNX_SHAPE;
    sort.fill(row_of, [col, weight, edges = edges_](int64_t edge, int64_t slot) {
      col[slot] = edges.src[edge];
      if (weight) weight[slot] = edges.weight ? edges.weight[edge] : 1.0f;
    });
    if (one_loop) add_loops();
    if (weight_ && edges_.normalise) normalise();
    return GNX_OK;
  }

 private:
  using Sorted = Sort<int64_t>;

  // The loop of a node stands last. One that was among the edges keeps its weight, of several the last one.
  void add_loops() {
    for (int64_t row = 0; row < edges_.num_nodes; ++row) {
      const int64_t slot = rowptr_[row + 1] - 1;
      col_[slot] = row;
      if (weight_) weight_[slot] = edges_.fill;
    }
    if (!weight_ || !edges_.weight) return;
    for (int64_t edge = 0; edge < edges_.num_edges; ++edge) {
      if (is_loop(edges_, edge)) weight_[rowptr_[edges_.dst[edge] + 1] - 1] = edges_.weight[edge];
    }
  }

  // Kipf and Welling: w / sqrt(d_src d_dst), where d sums the weights that enter a node; a node without any gives 0.
  void normalise() {
    std::vector<float> scale(edges_.num_nodes);
    const int64_t tasks = (edges_.num_nodes + ROWS - 1) / ROWS;
    const auto each_row = [&](auto body) {
      for_each(threads_, tasks, [&](size_t task) {
        const int64_t first = static_cast<int64_t>(task) * ROWS;
        for (int64_t row = first; row < std::min(first + ROWS, edges_.num_nodes); ++row) body(row);
      });
    };
    each_row([&](int64_t row) {
      float degree = 0.0f;
      for (int64_t slot = rowptr_[row]; slot < rowptr_[row + 1]; ++slot) degree += weight_[slot];
      scale[row] = degree == 0.0f ? 0.0f : 1.0f / std::sqrt(degree);
    });
    each_row([&](int64_t row) {
      for (int64_t slot = rowptr_[row]; slot < rowptr_[row + 1]; ++slot)
        weight_[slot] = scale[col_[slot]] * weight_[slot] * scale[row];
    });
  }

  const gnx_edges &edges_;
  const gnx_threads *threads_;
  int64_t *rowptr_ = nullptr, *col_ = nullptr;
  float *weight_ = nullptr;
};

int32_t check_edges(const gnx_edges &edges) {
  constexpr int64_t most = INT64_MAX / 64;
  if (edges.loops != GNX_LOOPS_KEPT && edges.loops != GNX_LOOPS_ONE) return GNX_OPTION;
  if (edges.num_edges < 0 || edges.num_nodes < 0 || edges.num_slots < 0) return GNX_SHAPE;
  if (edges.num_edges > most || edges.num_nodes > most) return GNX_SHAPE;
  return edges.num_edges > 0 && (!edges.src || !edges.dst) ? GNX_NULL : GNX_OK;
}

}  // namespace
}  // namespace gnx

extern "C" int32_t gnx_count_slots(const gnx_edges *edges, int64_t *num_slots) {
  if (!edges || !num_slots) return GNX_NULL;
  gnx_edges counted = *edges;
  counted.num_slots = 0;
  const int32_t status = gnx::check_edges(counted);
  if (status != GNX_OK) return status;
  *num_slots = edges->num_edges;
  if (edges->loops == GNX_LOOPS_ONE) {
    for (int64_t edge = 0; edge < edges->num_edges; ++edge) *num_slots -= gnx::is_loop(*edges, edge);
    *num_slots += edges->num_nodes;
  }
  return GNX_OK;
}

extern "C" int32_t gnx_prepare_edges(const gnx_edges *edges, int64_t *rowptr, int64_t *col, float *weight,
                                     const gnx_threads *threads) {
  if (!edges || !rowptr || (edges->num_slots > 0 && !col)) return GNX_NULL;
  const int32_t status = gnx::check_edges(*edges);
  if (status != GNX_OK) return status;
  return gnx::guarded([=] { return gnx::Preparation(*edges, threads).run(rowptr, col, weight); });
}
