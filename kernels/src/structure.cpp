#include "structure.hpp"

#include <algorithm>
#include <type_traits>

namespace gnx {
namespace {

// The first row whose place among rows and slots is not before `position`.
int64_t row_at(const Structure &structure, int64_t position) {
  int64_t low = 0, high = structure.num_rows;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (structure.rowptr[middle] + middle < position)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

int32_t check_sizes(const gnx_csr &csr) {
  if (csr.index_bits != 32 && csr.index_bits != 64) return GNX_OPTION;
  if (csr.num_rows < 0 || csr.num_slots < 0 || csr.num_src < 0) return GNX_SHAPE;
  const int64_t most = csr.index_bits == 32 ? INT32_MAX : INT64_MAX / 64;
  if (csr.num_slots > most || csr.num_rows >= most || csr.num_src > most) return GNX_SHAPE;
  if (!csr.rowptr) return GNX_NULL;
  // Without slots a list of columns may well have no address.
  return !csr.col && csr.num_slots > 0 && csr.num_src != csr.num_slots ? GNX_SHAPE : GNX_OK;
}

template <class Type>
bool rises(const Type *rowptr, int64_t num_rows, int64_t num_slots) {
  bool fits = rowptr[0] == 0 && rowptr[num_rows] == num_slots;
  for (int64_t row = 0; row < num_rows; ++row) fits &= rowptr[row] <= rowptr[row + 1];
  return fits;
}

// Negative ones are large where there is no sign; flags as wide as the columns keep the loop in vectors.
template <class Type>
bool within(const Type *col, int64_t begin, int64_t end, int64_t num_src) {
  typedef std::make_unsigned_t<Type> Unsigned;
  const Unsigned limit = static_cast<Unsigned>(num_src);
  Unsigned outside = 0;
  for (int64_t slot = begin; slot < end; ++slot) outside |= static_cast<Unsigned>(col[slot]) >= limit;
  return outside == 0;
}

}  // namespace

Span Work::span(size_t task) const {
  if (task < segments.size()) return {segments[task].row, segments[task].row + 1, &segments[task]};
  const int64_t begin = static_cast<int64_t>(task - segments.size()) * structure.chunk;
  return {row_at(structure, begin), row_at(structure, begin + structure.chunk), nullptr};
}

int32_t deal_out(const gnx_csr &csr, int64_t slot_bytes, Work &work) {
  const int32_t status = check_sizes(csr);
  if (status != GNX_OK) return status;
  const bool wide = csr.index_bits == 64;
  const bool fits = wide ? rises(static_cast<const int64_t *>(csr.rowptr), csr.num_rows, csr.num_slots)
                         : rises(static_cast<const int32_t *>(csr.rowptr), csr.num_rows, csr.num_slots);
  if (!fits) return GNX_INDEX;
  Structure &structure = work.structure;
  structure.rowptr = {csr.rowptr, wide};
  structure.col = {csr.col, wide};
  structure.num_rows = csr.num_rows;
  structure.num_slots = csr.num_slots;
  structure.num_src = csr.num_src;
  structure.chunk = std::clamp(CHUNK_BYTES / std::max<int64_t>(slot_bytes, 1), LEAST_CHUNK, MOST_CHUNK);
  const int64_t chunk = structure.chunk;
  for (int64_t row = 0; row < csr.num_rows && csr.num_slots > chunk; ++row) {
    const int64_t begin = structure.rowptr[row], end = structure.rowptr[row + 1];
    if (end - begin <= chunk) continue;
    work.hubs.push_back(work.segments.size());
    for (int64_t from = begin; from < end; from += chunk)
      work.segments.push_back({row, from, std::min(from + chunk, end), static_cast<int64_t>(work.segments.size())});
  }
  work.hubs.push_back(work.segments.size());
  work.chunks = static_cast<size_t>((csr.num_rows + csr.num_slots + chunk - 1) / chunk);
  return GNX_OK;
}

bool columns_fit(const Structure &structure, const Span &span) {
  if (!structure.col.data) return true;
  const int64_t begin = span.segment ? span.segment->begin : structure.rowptr[span.first];
  const int64_t end = span.segment ? span.segment->end : structure.rowptr[span.last];
  const void *col = structure.col.data;
  return structure.col.wide ? within(static_cast<const int64_t *>(col), begin, end, structure.num_src)
                            : within(static_cast<const int32_t *>(col), begin, end, structure.num_src);
}

}  // namespace gnx
