// Aggregation over CSR: which inner loop serves which block of columns.
#pragma once

#include "rows.hpp"

namespace {

template <class Row, int W, int NV, Sum S>
void reduce_block(const gnx_aggregate &work, const Structure &structure, const Block &block, const Span &span,
                  const Parts &parts) {
  typedef typename Row::Type Type;
  const Matrix<Type> x{static_cast<const Type *>(work.x), work.width};
  const Weights weights{work.weight, work.heads, 0, work.row_scale};
  const int64_t columns = block.end - block.begin;
  const bool plain = is_plain(work);
  for_rows(structure, span, [&](int64_t row, int64_t begin, int64_t end) {
    Floats<W> total[NV];
    gather<Row, W, NV, S>(structure, x, block, weights, begin, end, total);
    if (span.segment) {
      put<W, NV>(total, block, static_cast<float *>(parts.sums) + span.segment->part * work.width + block.begin);
      return;
    }
    float *const out = work.out + (row - structure.out_row) * work.width + block.begin;
    if (plain && !structure.past) return put<W, NV>(total, block, out);
    float values[NV * W];
    put<W, NV>(total, block, values);
    finish(work, row, end - begin, block.begin, columns, values);
    hand_over<NV * W>(values, columns, structure.past, out);
  });
  settle();
}

// Sums of at most SHORT_SUMS int8 rows, in 16 bits.
template <int W, int NV>
inline void add_few(const Structure &structure, const Matrix<int8_t> &x, const Block &block, int64_t begin,
                    int64_t end, int16_t *totals) {
  typedef typename Lanes<W>::Shorts Shorts;
  typedef typename Lanes<W>::Bytes Bytes;
  const int64_t last = block.end - W - block.begin;
  Shorts sums[NV] = {};
  for (int64_t slot = begin; slot < end; ++slot) {
    if (slot + AHEAD < structure.num_slots)
      prefetch<RowI8, W, NV>(x, source_of(structure, slot + AHEAD), block);
    const int8_t *from = x.data + source_of(structure, slot) * x.width + block.begin;
    for (int v = 0; v < NV; ++v)
      sums[v] += __builtin_convertvector(read<Bytes>(from + (v == NV - 1 ? last : v * W)), Shorts);
  }
  std::memcpy(totals, sums, sizeof(sums));
  if (last != (NV - 1) * W) std::memmove(totals + last, totals + (NV - 1) * W, W * sizeof(int16_t));
}

template <class Row, int W, int NV>
void add_block(const gnx_aggregate &work, const Structure &structure, const Block &block, const Span &span,
               const Parts &parts) {
  const Matrix<int8_t> x{static_cast<const int8_t *>(work.x), work.width};
  const int64_t columns = block.end - block.begin;
  for_rows(structure, span, [&](int64_t row, int64_t begin, int64_t end) {
    float *out = span.segment ? nullptr : work.out + (row - structure.out_row) * work.width + block.begin;
    int16_t few[NV * W];
    if (!span.segment && end - begin <= SHORT_SUMS) {
      add_few<W, NV>(structure, x, block, begin, end, few);
      for (int64_t i = 0; i < columns; ++i) out[i] = few[i];
      finish(work, row, end - begin, block.begin, columns, out);
      return;
    }
    int32_t totals[NV * W] = {};
    for (int64_t slot = begin; slot < end; slot += SHORT_SUMS) {
      add_few<W, NV>(structure, x, block, slot, end - slot > SHORT_SUMS ? slot + SHORT_SUMS : end, few);
      for (int64_t i = 0; i < columns; ++i) totals[i] += few[i];
    }
    if (span.segment) {
      int32_t *part = static_cast<int32_t *>(parts.sums) + span.segment->part * work.width + block.begin;
      std::memcpy(part, totals, columns * sizeof(int32_t));
      return;
    }
    for (int64_t i = 0; i < columns; ++i) out[i] = static_cast<float>(totals[i]);
    finish(work, row, end - begin, block.begin, columns, out);
  });
}

template <class Row, int W, int NV>
void reduce_as(const gnx_aggregate &work, const Structure &structure, const Block &block, Sum sum, const Span &span,
               const Parts &parts) {
  switch (sum) {
    case Sum::plain: return reduce_block<Row, W, NV, Sum::plain>(work, structure, block, span, parts);
    case Sum::weighted: return reduce_block<Row, W, NV, Sum::weighted>(work, structure, block, span, parts);
    case Sum::by_head: return reduce_block<Row, W, NV, Sum::by_head>(work, structure, block, span, parts);
    case Sum::max: return reduce_block<Row, W, NV, Sum::max>(work, structure, block, span, parts);
    case Sum::min: return reduce_block<Row, W, NV, Sum::min>(work, structure, block, span, parts);
    case Sum::prod: return reduce_block<Row, W, NV, Sum::prod>(work, structure, block, span, parts);
    case Sum::integers: return;
  }
}

template <class Row>
void reduce_rows(const gnx_aggregate &work, const Structure &structure, const Block &block, Sum sum, const Span &span,
                 const Parts &parts) {
#define GNX_CALL(W, NV) return reduce_as<Row, W, NV>(work, structure, block, sum, span, parts)
  GNX_FLOAT_BLOCKS(GNX_CALL)
#undef GNX_CALL
}

void add_rows(const gnx_aggregate &work, const Structure &structure, const Block &block, const Span &span,
              const Parts &parts) {
#define GNX_CALL(W, NV) return add_block<RowI8, W, NV>(work, structure, block, span, parts)
  GNX_INTEGER_BLOCKS(GNX_CALL)
#undef GNX_CALL
}

void aggregate(const gnx_aggregate &work, const Structure &structure, const Block &block, Sum sum, const Span &span,
               const Parts &parts) {
  if (sum == Sum::integers) return add_rows(work, structure, block, span, parts);
  switch (work.type) {
    case GNX_F32: return reduce_rows<RowF32>(work, structure, block, sum, span, parts);
    case GNX_BF16: return reduce_rows<RowBf16>(work, structure, block, sum, span, parts);
    case GNX_F16: return reduce_rows<RowF16>(work, structure, block, sum, span, parts);
    case GNX_I8: return reduce_rows<RowI8>(work, structure, block, sum, span, parts);
  }
}

inline float join_two(float total, float value, Sum sum) {
  if (sum == Sum::max) return value > total || value != value ? value : total;
  if (sum == Sum::min) return value < total || value != value ? value : total;
  return sum == Sum::prod ? total * value : total + value;
}

// Put the parts of one hub together, in their order.
void join(const gnx_aggregate &work, const Structure &structure, const Segment *segments, int64_t count, Sum sum,
          const Parts &parts) {
  const int64_t row = segments[0].row, width = work.width;
  float *out = work.out + (row - structure.out_row) * width;
  for (int64_t column = 0; column < width; ++column) {
    if (sum == Sum::integers) {
      const int32_t *part = static_cast<const int32_t *>(parts.sums) + segments[0].part * width + column;
      int64_t total = 0;
      for (int64_t i = 0; i < count; ++i) total += part[i * width];
      out[column] = static_cast<float>(total);
    } else {
      const float *part = static_cast<const float *>(parts.sums) + segments[0].part * width + column;
      float total = part[0];
      for (int64_t i = 1; i < count; ++i) total = join_two(total, part[i * width], sum);
      out[column] = total;
    }
  }
  finish(work, row, structure.rowptr[row + 1] - structure.rowptr[row], 0, width, out);
}

}  // namespace
