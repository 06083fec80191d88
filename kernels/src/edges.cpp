// Edges as they come, made ready for aggregation: sorted by destination, with loops and weights as a GCN wants them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <vector>

#include "gnnexport/kernels.h"
#include "threads.hpp"

namespace gnx {
namespace {

constexpr int64_t LEAST_STRETCH = 1 << 16;
constexpr int64_t MOST_STRETCHES = 16;
constexpr int64_t ROWS = 1 << 13;  // of one task

// A counting sort, each thread on its own stretch of edges; the slots of a node keep the order of its edges.
class Preparation {
 public:
  Preparation(const gnx_edges &edges, const gnx_threads *threads) : edges_(edges), threads_(threads) {
    const int64_t most = edges.num_edges / std::max<int64_t>(edges.num_nodes / 4, LEAST_STRETCH);
    stretches_ = std::clamp<int64_t>(most, 1, MOST_STRETCHES);
  }

  int32_t run(int64_t *rowptr, int64_t *col, float *weight) {
    rowptr_ = rowptr;
    col_ = col;
    weight_ = weight;
    counts_.assign(static_cast<size_t>(stretches_ * edges_.num_nodes), 0);
    for_each(threads_, stretches_, [this](size_t stretch) { count(stretch); });
    if (!in_range_) return GNX_INDEX;
    place();
    if (rowptr_[edges_.num_nodes] != edges_.num_slots) return GNX_SHAPE;
    for_each(threads_, stretches_, [this](size_t stretch) { fill(stretch); });
    if (edges_.loops == GNX_LOOPS_ONE) add_loops();
    if (weight_ && edges_.normalise) normalise();
    return GNX_OK;
  }

 private:
  bool drops(int64_t edge) const { return edges_.loops == GNX_LOOPS_ONE && edges_.src[edge] == edges_.dst[edge]; }
  int64_t border(int64_t stretch) const { return edges_.num_edges * stretch / stretches_; }

  void count(int64_t stretch) {
    int64_t *const counts = counts_.data() + stretch * edges_.num_nodes;
    for (int64_t edge = border(stretch); edge < border(stretch + 1); ++edge) {
      const int64_t src = edges_.src[edge], dst = edges_.dst[edge];
      if (src < 0 || src >= edges_.num_nodes || dst < 0 || dst >= edges_.num_nodes) {
        in_range_ = false;
        return;
      }
      if (!drops(edge)) ++counts[dst];
    }
  }

  // Turn counts into the slot that each stretch writes to first, row by row.
  void place() {
    int64_t slot = 0;
    for (int64_t row = 0; row < edges_.num_nodes; ++row) {
      rowptr_[row] = slot;
      for (int64_t stretch = 0; stretch < stretches_; ++stretch) {
        int64_t &count = counts_[stretch * edges_.num_nodes + row];
        const int64_t here = count;
        count = slot;
        slot += here;
      }
      if (edges_.loops == GNX_LOOPS_ONE) ++slot;
    }
    rowptr_[edges_.num_nodes] = slot;
  }

  void fill(int64_t stretch) {
    int64_t *const next = counts_.data() + stretch * edges_.num_nodes;
    for (int64_t edge = border(stretch); edge < border(stretch + 1); ++edge) {
      if (drops(edge)) continue;
      const int64_t slot = next[edges_.dst[edge]]++;
      col_[slot] = edges_.src[edge];
      if (weight_) weight_[slot] = edges_.weight ? edges_.weight[edge] : 1.0f;
    }
  }

  // The loop of a node stands last. One that was among the edges keeps its weight, of several the last one.
  void add_loops() {
    for (int64_t row = 0; row < edges_.num_nodes; ++row) {
      const int64_t slot = rowptr_[row + 1] - 1;
      col_[slot] = row;
      if (weight_) weight_[slot] = edges_.fill;
    }
    if (!weight_ || !edges_.weight) return;
    for (int64_t edge = 0; edge < edges_.num_edges; ++edge) {
      if (drops(edge)) weight_[rowptr_[edges_.dst[edge] + 1] - 1] = edges_.weight[edge];
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
  int64_t stretches_;
  int64_t *rowptr_ = nullptr, *col_ = nullptr;
  float *weight_ = nullptr;
  std::vector<int64_t> counts_;
  std::atomic<bool> in_range_{true};
};

int32_t check(const gnx_edges &edges) {
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
  const int32_t status = gnx::check(counted);
  if (status != GNX_OK) return status;
  *num_slots = edges->num_edges;
  if (edges->loops == GNX_LOOPS_ONE) {
    for (int64_t edge = 0; edge < edges->num_edges; ++edge) *num_slots -= edges->src[edge] == edges->dst[edge];
    *num_slots += edges->num_nodes;
  }
  return GNX_OK;
}

extern "C" int32_t gnx_prepare_edges(const gnx_edges *edges, int64_t *rowptr, int64_t *col, float *weight,
                                     const gnx_threads *threads) {
  if (!edges || !rowptr || (edges->num_slots > 0 && !col)) return GNX_NULL;
  const int32_t status = gnx::check(*edges);
  if (status != GNX_OK) return status;
  try {
    return gnx::Preparation(*edges, threads).run(rowptr, col, weight);
  } catch (const std::exception &) {
    return GNX_MEMORY;
  }
}
