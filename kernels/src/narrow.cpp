// Rows of floats turned into levels.
#include <algorithm>

#include "checks.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace gnx {
namespace {

constexpr int64_t TASK_NUMBERS = 1 << 18;

int32_t narrow(const float *x, int64_t num_rows, int64_t width, const gnx_narrow &to, const gnx_threads *threads) {
  const Path *path = current_path();
  if (!path || !known(to)) return GNX_OPTION;
  gnx_csr rows{};
  rows.num_rows = num_rows;
  if (num_rows < 0 || width < 0 || !buffers_fit(rows, width)) return GNX_SHAPE;
  if (num_rows == 0 || width == 0) return GNX_OK;
  if (!x || !to.step || !to.out) return GNX_NULL;
  std::vector<float> inverse;
  const Narrow made = narrow_of(to, width, inverse);
  const int64_t stretch = std::max<int64_t>(TASK_NUMBERS / width, 1);
  for_each(threads, static_cast<size_t>((num_rows + stretch - 1) / stretch), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * stretch;
    path->levels.narrow(x, width, made, first, std::min(first + stretch, num_rows));
  });
  return GNX_OK;
}

}  // namespace
}  // namespace gnx

extern "C" int32_t gnx_run_narrow(const float *x, int64_t num_rows, int64_t width, const gnx_narrow *to,
                                  const gnx_threads *threads) {
  return to ? gnx::guarded([=] { return gnx::narrow(x, num_rows, width, *to, threads); }) : GNX_NULL;
}
