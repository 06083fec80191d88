// Rows of floats turned into levels.
#include <algorithm>

#include "checks.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace gnx {

constexpr uint8_t MOST_BITS = 8;

int32_t check_quantiser(const gnx_quantiser &quantiser) {
  if (quantiser.count <= 0) return GNX_SHAPE;
  if (!quantiser.step || !quantiser.bits) return GNX_NULL;
  const uint8_t *const end = quantiser.bits + quantiser.count;
  const bool known = std::all_of(quantiser.bits, end, [](uint8_t bits) { return bits >= 1 && bits <= MOST_BITS; });
  return known ? GNX_OK : GNX_OPTION;
}

int32_t check_given(const gnx_quantiser &quantiser) { return quantiser.nearest ? GNX_OPTION : check_quantiser(quantiser); }

namespace {

constexpr int64_t TASK_NUMBERS = 1 << 18;

int32_t narrow(const float *x, int64_t num_rows, int64_t width, const gnx_narrow &to, const gnx_given *given,
               const gnx_threads *threads) {
  const Path *path = current_path();
  if (!path || !known(to)) return GNX_OPTION;
  gnx_csr rows{};
  rows.num_rows = num_rows;
  if (num_rows < 0 || width < 0 || !buffers_fit(rows, width)) return GNX_SHAPE;
  if (num_rows == 0 || width == 0) return GNX_OK;
  if (!x || !to.step || !to.out) return GNX_NULL;
  if (given && !given->out) given = nullptr;
  const int32_t status = given ? check_given(given->quantiser) : GNX_OK;
  if (status != GNX_OK) return status;
  std::vector<float> inverse;
  const Narrow made = narrow_of(to, width, inverse);
  const int64_t stretch = std::max<int64_t>(TASK_NUMBERS / width, 1);
  for_each(threads, static_cast<size_t>((num_rows + stretch - 1) / stretch), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * stretch;
    path->levels.narrow(x, width, made, given, first, std::min(first + stretch, num_rows));
  });
  return GNX_OK;
}

}  // namespace
}  // namespace gnx

extern "C" int32_t gnx_run_narrow(const float *x, int64_t num_rows, int64_t width, const gnx_narrow *to,
                                  const gnx_given *given, const gnx_threads *threads) {
  return to ? gnx::guarded([=] { return gnx::narrow(x, num_rows, width, *to, given, threads); }) : GNX_NULL;
}
