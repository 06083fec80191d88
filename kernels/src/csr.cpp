// CSR by destination from edges in any order: a counting sort, each thread on its own stretch of edges.
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "plan.hpp"
#include "threads.hpp"

namespace gnx {
namespace {

constexpr int64_t LEAST_STRETCH = 1 << 16;
constexpr int64_t MOST_STRETCHES = 16;

template <class Type>
class Sort {
 public:
  Sort(const Type *dst, int64_t num_edges, int64_t num_rows, Type *rowptr, Type *perm, const gnx_threads *threads)
      : dst_(dst), num_edges_(num_edges), num_rows_(num_rows), rowptr_(rowptr), perm_(perm), threads_(threads) {
    // A table of counts for each stretch must not cost more than the edges themselves.
    const int64_t most = std::min(MOST_STRETCHES, num_edges / std::max<int64_t>(num_rows / 4, LEAST_STRETCH));
    stretches_ = std::max<int64_t>(most, 1);
  }

  int32_t run() {
    counts_.assign(static_cast<size_t>(stretches_ * num_rows_), 0);
    for_each(threads_, stretches_, [this](size_t stretch) { count(stretch); });
    if (!in_range_) return GNX_INDEX;
    place();
    for_each(threads_, stretches_, [this](size_t stretch) { fill(stretch); });
    return GNX_OK;
  }

 private:
  int64_t border(int64_t stretch) const {
    return num_edges_ / stretches_ * stretch + std::min(stretch, num_edges_ % stretches_);
  }

  void count(int64_t stretch) {
    Type *const counts = counts_.data() + stretch * num_rows_;
    for (int64_t edge = border(stretch); edge < border(stretch + 1); ++edge) {
      const Type row = dst_[edge];
      if (row < 0 || row >= num_rows_) {
        in_range_ = false;
        return;
      }
      ++counts[row];
    }
  }

  // Turn counts into the slot that each stretch writes to first, row by row.
  void place() {
    Type slot = 0;
    for (int64_t row = 0; row < num_rows_; ++row) {
      rowptr_[row] = slot;
      for (int64_t stretch = 0; stretch < stretches_; ++stretch) {
        Type &count = counts_[stretch * num_rows_ + row];
        const Type here = count;
        count = slot;
        slot += here;
      }
    }
    rowptr_[num_rows_] = slot;
  }

  void fill(int64_t stretch) {
    Type *const next = counts_.data() + stretch * num_rows_;
    for (int64_t edge = border(stretch); edge < border(stretch + 1); ++edge)
      perm_[next[dst_[edge]]++] = static_cast<Type>(edge);
  }

  const Type *dst_;
  int64_t num_edges_, num_rows_;
  Type *rowptr_, *perm_;
  const gnx_threads *threads_;
  int64_t stretches_;
  std::vector<Type> counts_;
  std::atomic<bool> in_range_{true};
};

template <class Type>
int32_t build(const void *dst, int64_t num_edges, int64_t num_rows, void *rowptr, void *perm,
              const gnx_threads *threads) {
  return Sort<Type>(static_cast<const Type *>(dst), num_edges, num_rows, static_cast<Type *>(rowptr),
                    static_cast<Type *>(perm), threads)
      .run();
}

}  // namespace
}  // namespace gnx

extern "C" int32_t gnx_build_csr(const void *dst, int64_t num_edges, int64_t num_rows, int32_t index_bits,
                                 void *rowptr, void *perm, const gnx_threads *threads) {
  if (index_bits != 32 && index_bits != 64) return GNX_OPTION;
  const int64_t most = index_bits == 32 ? INT32_MAX : INT64_MAX / 64;
  if (num_edges < 0 || num_rows < 0 || num_edges > most || num_rows >= most) return GNX_SHAPE;
  if (!rowptr || (num_edges > 0 && (!dst || !perm))) return GNX_NULL;
  try {
    return index_bits == 64 ? gnx::build<int64_t>(dst, num_edges, num_rows, rowptr, perm, threads)
                            : gnx::build<int32_t>(dst, num_edges, num_rows, rowptr, perm, threads);
  } catch (const std::exception &) {
    return GNX_MEMORY;
  }
}
