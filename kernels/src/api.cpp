// The C interface: check everything, deal the work out, put hubs together.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "blocks.hpp"
#include "checks.hpp"
#include "dispatch.hpp"
#include "gnnexport/kernels.h"
#include "scratch.hpp"
#include "structure.hpp"
#include "threads.hpp"

namespace gnx {
namespace {

bool options_fit(const gnx_aggregate &work) {
  if (work.type < GNX_F32 || work.type > GNX_U4 || work.reduce < GNX_SUM || work.reduce > GNX_PROD) return false;
  if (!known(work.epilogue)) return false;
  const bool adds = work.reduce == GNX_SUM || work.reduce == GNX_MEAN;
  if (has_levels(work)) {
    const bool centred = work.zero == 0 || work.zero == (work.type == GNX_U8 ? 128 : 8);
    if (!centred || work.reduce == GNX_PROD || (work.next.out && !known(work.next))) return false;
    return work.heads <= 1 && (adds || (!work.weight && !work.row_scale));
  }
  if (work.next.out || (work.type != GNX_I8 && (work.row_scale || work.column_scale))) return false;
  // A scale of either sign would turn a maximum into a minimum.
  return adds || (!work.weight && !work.row_scale && !work.column_scale);
}

bool shapes_fit(int64_t width, int64_t heads) { return width >= 0 && heads >= 1 && width % heads == 0; }

}  // namespace

int64_t row_bytes(int32_t type, int64_t width) {
  switch (type) {
    case GNX_F32: return 4 * width;
    case GNX_BF16:
    case GNX_F16: return 2 * width;
    case GNX_U4: return (width + 1) / 2;
    default: return width;
  }
}

bool known(const gnx_narrow &narrow) {
  return (narrow.bits == 4 || narrow.bits == 8) && (narrow.zero == 0 || narrow.zero == 1 << (narrow.bits - 1));
}

Narrow narrow_of(const gnx_narrow &to, int64_t width, std::vector<float> &inverse) {
  inverse.resize(width);
  for (int64_t column = 0; column < width; ++column) inverse[column] = 1.0f / to.step[column];
  const int32_t most = (1 << (to.zero ? to.bits - 1 : to.bits)) - 1;
  const int64_t bytes = row_bytes(to.bits == 4 ? GNX_U4 : GNX_U8, width);
  return {inverse.data(), static_cast<float>(most), to.bits, to.zero, to.out, bytes};
}

bool known(const gnx_epilogue &epilogue) {
  return epilogue.activation >= GNX_IDENTITY && epilogue.activation <= GNX_ELU;
}

bool buffers_fit(const gnx_csr &csr, int64_t width) {
  const int64_t most = INT64_MAX / 64 / std::max<int64_t>(width, 1);
  return most > 0 && csr.num_rows <= most && csr.num_src <= most && csr.num_slots <= most;
}

Sum sum_of(const gnx_aggregate &work) {
  if (work.reduce == GNX_MAX) return Sum::max;
  if (work.reduce == GNX_MIN) return Sum::min;
  if (work.reduce == GNX_PROD) return Sum::prod;
  if (work.weight || work.row_scale) return Sum::weighted;
  return work.type >= GNX_I8 ? Sum::integers : Sum::plain;
}

int32_t check(const gnx_aggregate &work) {
  if (!options_fit(work)) return GNX_OPTION;
  const bool lacks_weight = work.heads > 1 && !work.weight && work.csr.num_slots > 0;
  if (!shapes_fit(work.width, work.heads) || lacks_weight) return GNX_SHAPE;
  if (!buffers_fit(work.csr, work.width)) return GNX_SHAPE;
  const bool writes = work.csr.num_rows > 0 && work.width > 0;
  const bool reads = work.csr.num_slots > 0 && work.width > 0;
  if (writes && (work.next.out ? !work.next.step : !work.out)) return GNX_NULL;
  return reads && !work.x ? GNX_NULL : GNX_OK;
}

namespace {

int32_t check_attention(const gnx_attention &work) {
  if (work.score < GNX_GIVEN || work.score > GNX_DOT || !known(work.epilogue)) return GNX_OPTION;
  const bool floats = work.type == GNX_F32 && !work.column_scale;
  if (!floats && (work.type != GNX_U8 || (work.zero != 0 && work.zero != 128))) return GNX_OPTION;
  if (!shapes_fit(work.width, work.heads) || !buffers_fit(work.csr, std::max(work.width, work.heads)))
    return GNX_SHAPE;
  if (work.csr.num_rows == 0 || work.width == 0) return GNX_OK;
  if (!work.out) return GNX_NULL;
  if (work.csr.num_slots == 0) return GNX_OK;
  if (work.score == GNX_GIVEN ? !work.edge : !work.source || !work.destination) return GNX_NULL;
  return !work.x || (work.score == GNX_GATV2 && !work.att) ? GNX_NULL : GNX_OK;
}

int32_t aggregate(const gnx_aggregate &work, const gnx_threads *threads) {
  const Path *path = current_path();
  if (!path) return GNX_OPTION;
  int32_t status = check(work);
  if (status != GNX_OK) return status;
  Work dealt;
  status = deal_out(work.csr, row_bytes(work.type, work.width), dealt);
  if (status != GNX_OK || work.width == 0 || work.csr.num_rows == 0) return status;
  std::vector<float> inverse;
  Narrow next;
  if (work.next.out) {
    next = narrow_of(work.next, work.width, inverse);
    dealt.structure.next = &next;
  }
  dealt.structure.past = work.csr.num_rows * work.width * static_cast<int64_t>(sizeof(float)) > PAST_BYTES;
  const Sum sum = sum_of(work);
  const std::vector<Block> blocks = cut_columns(work, sum, *path);
  std::vector<float> sums(dealt.segments.size() * work.width);
  const Parts parts{sums.data(), nullptr, nullptr};
  const Reduce &reduce = reduce_of(work, *path);
  std::atomic<bool> in_range{true};
  for_each(threads, dealt.tasks(), [&](size_t task) {
    const Span span = dealt.span(task);
    if (!columns_fit(dealt.structure, span)) in_range = false;
    if (!in_range) return;
    for (const Block &block : blocks)
      reduce.aggregate(work, dealt.structure, block, block.per_head ? Sum::by_head : sum, span, parts);
  });
  if (!in_range) return GNX_INDEX;
  for_each(threads, dealt.num_hubs(), [&](size_t hub) {
    const size_t first = dealt.hubs[hub];
    reduce.join(work, dealt.structure, &dealt.segments[first], dealt.hubs[hub + 1] - first, sum, parts);
  });
  return GNX_OK;
}

// Peaks and totals of a softmax over hubs, part by part.
struct Peaks {
  std::vector<float> sums, peaks, totals;
  Parts parts;
  Peaks(const Work &dealt, int64_t heads, int64_t width)
      : sums(dealt.segments.size() * width),
        peaks(dealt.segments.size() * heads),
        totals(dealt.segments.size() * heads),
        parts{sums.data(), peaks.data(), totals.data()} {}
};

int32_t attend(const gnx_attention &work, const gnx_threads *threads) {
  const Path *path = current_path();
  if (!path) return GNX_OPTION;
  int32_t status = check_attention(work);
  if (status != GNX_OK) return status;
  Work dealt;
  status = deal_out(work.csr, work.width * 4, dealt);
  if (status != GNX_OK || work.width == 0 || work.csr.num_rows == 0) return status;
  const std::vector<Block> blocks = cut_columns(work.width, work.heads, path->lanes, path->most);
  const Peaks peaks(dealt, work.heads, work.width);
  const size_t floats = (dealt.structure.chunk + 2) * work.heads + work.width;
  std::atomic<bool> in_range{true}, in_memory{true};
  for_each(threads, dealt.tasks(), [&](size_t task) {
    const Span span = dealt.span(task);
    if (!columns_fit(dealt.structure, span)) in_range = false;
    if (!in_range) return;
    float *const own = scratch(floats);
    if (own)
      path->attend(work, dealt.structure, blocks.data(), blocks.size(), span, peaks.parts, own);
    else
      in_memory = false;
  });
  if (!in_range || !in_memory) return in_range ? GNX_MEMORY : GNX_INDEX;
  for_each(threads, dealt.num_hubs(), [&](size_t hub) {
    const size_t first = dealt.hubs[hub];
    const int64_t count = dealt.hubs[hub + 1] - first;
    path->join_attention(work, dealt.structure, &dealt.segments[first], count, peaks.parts);
  });
  return GNX_OK;
}

int32_t soften(const gnx_csr &given, const float *scores, int64_t heads, float *out, const gnx_threads *threads) {
  const Path *path = current_path();
  if (!path) return GNX_OPTION;
  gnx_csr csr = given;
  csr.col = nullptr;
  csr.num_src = csr.num_slots;
  if (heads < 0 || csr.num_slots < 0 || !buffers_fit(csr, heads)) return GNX_SHAPE;
  if (csr.num_slots > 0 && heads > 0 && (!scores || !out)) return GNX_NULL;
  Work dealt;
  const int32_t status = deal_out(csr, heads * 4, dealt);
  if (status != GNX_OK || heads == 0 || csr.num_slots == 0) return status;
  const Peaks peaks(dealt, heads, 0);
  std::vector<float> scratch(dealt.chunks * 2 * heads);
  for_each(threads, dealt.tasks(), [&](size_t task) {
    float *own = task < dealt.segments.size() ? nullptr : &scratch[(task - dealt.segments.size()) * 2 * heads];
    path->soften(dealt.structure, scores, heads, out, dealt.span(task), peaks.parts, own);
  });
  for_each(threads, dealt.num_hubs(), [&](size_t hub) {
    const size_t first = dealt.hubs[hub];
    path->join_softmax(&dealt.segments[first], dealt.hubs[hub + 1] - first, heads, out, peaks.parts);
  });
  return GNX_OK;
}

int32_t spread(const gnx_csr &given, const float *x, int64_t width, float *out, const gnx_threads *threads) {
  gnx_csr csr = given;
  csr.col = nullptr;
  csr.num_src = csr.num_slots;
  if (width < 0 || csr.num_slots < 0 || csr.num_rows < 0 || !buffers_fit(csr, width)) return GNX_SHAPE;
  if (csr.num_slots > 0 && width > 0 && (!x || !out)) return GNX_NULL;
  Work dealt;
  const int32_t status = deal_out(csr, width * 4, dealt);
  if (status != GNX_OK || width == 0) return status;
  for_each(threads, dealt.tasks(), [&](size_t task) {
    const Span span = dealt.span(task);
    const Structure &structure = dealt.structure;
    for (int64_t row = span.first; row < span.last; ++row) {
      int64_t begin = structure.rowptr[row], end = structure.rowptr[row + 1];
      if (span.segment) {
        begin = span.segment->begin;
        end = span.segment->end;
      } else if (end - begin > structure.chunk) {
        continue;
      }
      for (int64_t slot = begin; slot < end; ++slot)
        std::memcpy(out + slot * width, x + row * width, width * sizeof(float));
    }
  });
  return GNX_OK;
}

}  // namespace
}  // namespace gnx

extern "C" {

int32_t gnx_abi(void) { return GNX_ABI; }

const char *gnx_path(void) {
  const gnx::Path *path = gnx::current_path();
  return path ? path->name : "none";
}

int32_t gnx_use_path(const char *name) { return gnx::use_path(name) ? GNX_OK : GNX_OPTION; }

const char *gnx_message(int32_t status) {
  switch (status) {
    case GNX_OK: return "done";
    case GNX_NULL: return "a pointer that is needed is null";
    case GNX_SHAPE: return "a size is negative, or sizes do not fit each other";
    case GNX_INDEX: return "rowptr falls or ends elsewhere, or an index is out of range";
    case GNX_OPTION: return "a type, reduction, activation, instruction set or combination that is not known";
    case GNX_MEMORY: return "memory ran out";
    default: return "an unknown status";
  }
}

int32_t gnx_run_aggregate(const gnx_aggregate *work, const gnx_threads *threads) {
  return work ? gnx::guarded([=] { return gnx::aggregate(*work, threads); }) : GNX_NULL;
}

int32_t gnx_run_attention(const gnx_attention *work, const gnx_threads *threads) {
  return work ? gnx::guarded([=] { return gnx::attend(*work, threads); }) : GNX_NULL;
}

int32_t gnx_run_spread(const gnx_csr *csr, const float *x, int64_t width, float *out, const gnx_threads *threads) {
  return csr ? gnx::guarded([=] { return gnx::spread(*csr, x, width, out, threads); }) : GNX_NULL;
}

int32_t gnx_run_softmax(const gnx_csr *csr, const float *scores, int64_t heads, float *out,
                        const gnx_threads *threads) {
  return csr ? gnx::guarded([=] { return gnx::soften(*csr, scores, heads, out, threads); }) : GNX_NULL;
}
}
