// CSR by destination from edges in any order.
#include "checks.hpp"
#include "sort.hpp"

namespace gnx {
namespace {

template <class Type>
int32_t build(const void *given, int64_t num_edges, int64_t num_rows, void *rowptr, void *perm,
              const gnx_threads *threads) {
  const Type *const dst = static_cast<const Type *>(given);
  Type *const edges = static_cast<Type *>(perm);
  Sort<Type> sort(num_edges, num_rows, threads);
  const auto row_of = [=](int64_t edge) -> int64_t {
    const Type row = dst[edge];
    return row < 0 || row >= num_rows ? Sort<Type>::WRONG : row;
  };
  if (!sort.count(row_of, static_cast<Type *>(rowptr), 0)) return GNX_INDEX;
  const auto put = [=](int64_t edge, Type slot) { edges[slot] = static_cast<Type>(edge); };
  sort.fill([=](int64_t edge) { return dst[edge]; }, put);
  return GNX_OK;
}

}  // namespace
}  // namespace gnx

extern "C" int32_t gnx_build_csr(const void *dst, int64_t num_edges, int64_t num_rows, int32_t index_bits,
                                 void *rowptr, void *perm, const gnx_threads *threads) {
  if (index_bits != 32 && index_bits != 64) return GNX_OPTION;
  const int64_t most = index_bits == 32 ? INT32_MAX : INT64_MAX / 64;
  if (num_edges < 0 || num_rows < 0 || num_edges > most || num_rows >= most) return GNX_SHAPE;
  if (!rowptr || (num_edges > 0 && (!dst || !perm))) return GNX_NULL;
  const auto build = index_bits == 64 ? gnx::build<int64_t> : gnx::build<int32_t>;
  return gnx::guarded([=] { return build(dst, num_edges, num_rows, rowptr, perm, threads); });
}
