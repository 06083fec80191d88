// A stable counting sort of edges by row, each thread on its own stretch of edges.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "threads.hpp"

namespace gnx {

template <class Type>
class Sort {
 public:
  static constexpr int64_t DROPPED = -1, WRONG = -2;

  Sort(int64_t num_edges, int64_t num_rows, const gnx_threads *threads)
      : num_edges_(num_edges), num_rows_(num_rows), threads_(threads) {
    constexpr int64_t LEAST_STRETCH = 1 << 16, MOST_STRETCHES = 16;
    // The tables of counts, one for each stretch, must not hold more than a few numbers for each edge.
    const int64_t most = num_edges / std::max<int64_t>(num_rows / 4, LEAST_STRETCH);
    stretches_ = std::clamp<int64_t>(most, 1, MOST_STRETCHES);
  }

  // Count the edges of each row, which row_of(edge) names, and write where its slots begin: `spare` more than edges.
  // False where an edge is WRONG.
  template <class RowOf>
  bool count(RowOf row_of, Type *rowptr, Type spare) {
    counts_.assign(static_cast<size_t>(stretches_ * num_rows_), 0);
    std::atomic<bool> fits{true};
    for_each(threads_, stretches_, [&](size_t stretch) {
      Type *const counts = counts_of(stretch);
      const int64_t end = border(stretch + 1);
      for (int64_t edge = border(stretch); edge < end; ++edge) {
        const int64_t row = row_of(edge);
        if (row == WRONG) {
          fits = false;
          return;
        }
        if (row != DROPPED) ++counts[row];
      }
    });
    if (fits) place(rowptr, spare);
    return fits;
  }

  // Call put(edge, slot) for each edge that has a row, as counted.
  template <class RowOf, class Put>
  void fill(RowOf row_of, Put put) {
    for_each(threads_, stretches_, [&](size_t stretch) {
      Type *const next = counts_of(stretch);
      const int64_t end = border(stretch + 1);
      for (int64_t edge = border(stretch); edge < end; ++edge) {
        const int64_t row = row_of(edge);
        if (row != DROPPED) put(edge, next[row]++);
      }
    });
  }

 private:
  int64_t border(int64_t stretch) const {
    return num_edges_ / stretches_ * stretch + std::min(stretch, num_edges_ % stretches_);
  }

  Type *counts_of(size_t stretch) { return counts_.data() + stretch * num_rows_; }

  // Turn counts into the slot that each stretch writes to first, row by row.
  void place(Type *rowptr, Type spare) {
    Type slot = 0;
    for (int64_t row = 0; row < num_rows_; ++row) {
      rowptr[row] = slot;
      for (int64_t stretch = 0; stretch < stretches_; ++stretch) {
        Type &count = counts_[stretch * num_rows_ + row];
        const Type here = count;
        count = slot;
        slot += here;
      }
      slot += spare;
    }
    rowptr[num_rows_] = slot;
  }

  int64_t num_edges_, num_rows_;
  const gnx_threads *threads_;
  int64_t stretches_;
  std::vector<Type> counts_;
};

}  // namespace gnx
