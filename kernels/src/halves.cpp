// Floats rounded to 16 bits.
#include <algorithm>

#include "checks.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace gnx {
namespace {

constexpr int64_t TASK_NUMBERS = 1 << 18;

int32_t round(const float *x, int64_t count, int32_t type, uint16_t *out, const gnx_threads *threads) {
  const Path *path = current_path();
  if (!path || (type != GNX_BF16 && type != GNX_F16)) return GNX_OPTION;
  if (count < 0 || count > INT64_MAX / 64) return GNX_SHAPE;
  if (count == 0) return GNX_OK;
  if (!x || !out) return GNX_NULL;
  for_each(threads, static_cast<size_t>((count + TASK_NUMBERS - 1) / TASK_NUMBERS), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * TASK_NUMBERS;
    path->round(x + first, std::min(TASK_NUMBERS, count - first), type, out + first);
  });
  return GNX_OK;
}

}  // namespace
}  // namespace gnx

extern "C" int32_t gnx_run_round(const float *x, int64_t count, int32_t type, uint16_t *out,
                                 const gnx_threads *threads) {
  return gnx::guarded([=] { return gnx::round(x, count, type, out, threads); });
}
