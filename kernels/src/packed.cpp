// Rows of numbers of a few bits: what is asked for, and who does it.
#include "packed.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "checks.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace gnx {
namespace packed {
namespace {

constexpr int64_t TASK_BYTES = 256 << 10;  // of the rows of one task as floats

const Loops &loops() {
#if defined(GNX_X86)
  const Path *const path = current_path();
  const char *const name = path ? path->name : "portable";
  if (std::strcmp(name, "avx2") == 0) return AVX2;
  if (std::strcmp(name, "portable") != 0) return AVX512;
#endif
  return PORTABLE;
}

int32_t check(const gnx_packed &rows, const int64_t *ids, int64_t count, const void *numbers) {
  const int64_t most = INT64_MAX / 512 / std::max<int64_t>(rows.columns, 1);
  if (rows.num_rows < 0 || rows.columns < 0 || rows.payload_bytes < 0 || count < 0) return GNX_SHAPE;
  if (rows.columns > INT64_MAX / 512 || rows.num_rows > most || count > most) return GNX_SHAPE;
  if (rows.codes && rows.zero) return GNX_OPTION;
  if (count == 0 || rows.columns == 0) return GNX_OK;
  if (!numbers) return GNX_NULL;
  if (rows.num_rows > 0 && (!rows.step || (rows.codes && !rows.anchors))) return GNX_NULL;
  if (rows.payload_bytes > 0 && !rows.payload) return GNX_NULL;
  return ids || count <= rows.num_rows ? GNX_OK : GNX_INDEX;
}

template <class Number>
int32_t run(const gnx_packed *rows, const int64_t *ids, int64_t count, Number *numbers, const gnx_threads *threads,
            bool (*Loops::*loop)(const gnx_packed &, const int64_t *, int64_t, int64_t, Number *)) {
  if (!rows) return GNX_NULL;
  const int32_t status = check(*rows, ids, count, numbers);
  if (status != GNX_OK || count == 0 || rows->columns == 0) return status;
  return guarded([=] {
    const auto call = loops().*loop;
    const int64_t each = std::max<int64_t>(TASK_BYTES / 4 / rows->columns, 1);
    std::atomic<bool> fits{true};
    for_each(threads, static_cast<size_t>((count + each - 1) / each), [&](size_t task) {
      const int64_t begin = static_cast<int64_t>(task) * each;
      if (!call(*rows, ids, begin, std::min(begin + each, count), numbers)) fits = false;
    });
    return fits ? GNX_OK : GNX_INDEX;
  });
}

}  // namespace
}  // namespace packed
}  // namespace gnx

extern "C" {

int32_t gnx_pack_rows(const gnx_packed *rows, const int64_t *ids, int64_t count, const float *x,
                      const gnx_threads *threads) {
  return gnx::packed::run(rows, ids, count, x, threads, &gnx::packed::Loops::pack);
}

int32_t gnx_unpack_rows(const gnx_packed *rows, const int64_t *ids, int64_t count, float *out,
                        const gnx_threads *threads) {
  return gnx::packed::run(rows, ids, count, out, threads, &gnx::packed::Loops::unpack);
}

int32_t gnx_unpack_levels(const gnx_packed *rows, const int64_t *ids, int64_t count, uint8_t *out,
                          const gnx_threads *threads) {
  return gnx::packed::run(rows, ids, count, out, threads, &gnx::packed::Loops::levels);
}
}
