#include "tiles.hpp"

#include <algorithm>

#include "blocks.hpp"
#include "checks.hpp"

namespace gnx {
namespace {

constexpr int64_t TILES = 4;   // that a task without edges works on
constexpr int64_t LARGER = 4;  // as many slots as an aggregation deals out: so few tiles are left half empty

}  // namespace

Tiles::Tiles(const gnx_aggregate &sum, bool reduces, int64_t tile, const Path &path, const gnx_threads *threads)
    : sum_(sum), reduces_(reduces), tile_(tile), path_(path), threads_(threads) {}

int32_t Tiles::run(bool empty) {
  if (!reduces_) return empty ? GNX_OK : run_rows();
  const int64_t slot_bytes = row_bytes(sum_.type, sum_.width);
  const int32_t status = deal_out(sum_.csr, std::max<int64_t>(slot_bytes / LARGER, 1), dealt_);
  if (status != GNX_OK || empty) return status;
  kind_ = sum_of(sum_);
  blocks_ = cut_columns(sum_, kind_, path_);
  sums_.resize(dealt_.segments.size() * sum_.width);
  for_each(threads_, dealt_.tasks(), [this](size_t task) { run_span(dealt_.span(task)); });
  if (status_ == GNX_OK) for_each(threads_, dealt_.num_hubs(), [this](size_t hub) { join(hub); });
  return status_;
}

int32_t Tiles::run_rows() {
  const int64_t rows = sum_.csr.num_rows, stretch = TILES * tile_;
  for_each(threads_, static_cast<size_t>((rows + stretch - 1) / stretch), [=](size_t task) {
    const int64_t begin = static_cast<int64_t>(task) * stretch, end = std::min(begin + stretch, rows);
    float *const own = scratch(scratch_);
    if (!own) status_ = GNX_MEMORY;
    for (int64_t row = begin; own && row < end; row += tile_) work_on(nullptr, row, std::min(tile_, end - row), own);
  });
  return status_;
}

void Tiles::run_span(const Span &span) {
  if (!columns_fit(dealt_.structure, span)) status_ = GNX_INDEX;
  if (status_ != GNX_OK) return;
  if (span.segment) return reduce(dealt_.structure, span, nullptr);
  float *const own = scratch(tile_ * sum_.width + LINE_FLOATS + scratch_);
  if (!own) {
    status_ = GNX_MEMORY;
    return;
  }
  int64_t first = next_row(span, span.first);
  while (first < span.last) {
    const int64_t last = end_of_tile(span, first);
    Structure tile = dealt_.structure;
    tile.out_row = first;
    reduce(tile, {first, last, nullptr}, own);
    work_on(own, first, last - first, own + up_to_line(tile_ * sum_.width));
    first = next_row(span, last);
  }
}

// Hubs are left to their segments: no tile holds one.
bool Tiles::is_hub(int64_t row) const {
  const Structure &structure = dealt_.structure;
  return structure.rowptr[row + 1] - structure.rowptr[row] > structure.chunk;
}

int64_t Tiles::next_row(const Span &span, int64_t row) const {
  while (row < span.last && is_hub(row)) ++row;
  return row;
}

int64_t Tiles::end_of_tile(const Span &span, int64_t first) const {
  int64_t row = first;
  while (row < span.last && row < first + tile_ && !is_hub(row)) ++row;
  return row;
}

void Tiles::reduce(const Structure &structure, const Span &span, float *out) {
  gnx_aggregate part = sum_;
  part.out = out;
  const Parts parts{sums_.data(), nullptr, nullptr};
  for (const Block &block : blocks_)
    reduce_of(sum_, path_).aggregate(part, structure, block, block.per_head ? Sum::by_head : kind_, span, parts);
}

void Tiles::join(size_t hub) {
  float *const own = scratch(sum_.width + LINE_FLOATS + scratch_);
  if (!own) {
    status_ = GNX_MEMORY;
    return;
  }
  const size_t first = dealt_.hubs[hub];
  const int64_t row = dealt_.segments[first].row, count = dealt_.hubs[hub + 1] - first;
  Structure structure = dealt_.structure;
  structure.out_row = row;
  gnx_aggregate part = sum_;
  part.out = own;
  const Parts parts{sums_.data(), nullptr, nullptr};
  reduce_of(sum_, path_).join(part, structure, &dealt_.segments[first], count, kind_, parts);
  work_on(own, row, 1, own + up_to_line(sum_.width));
}

}  // namespace gnx
