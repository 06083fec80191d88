// The operators of levels, for the runtimes that know bytes without a sign: what their inputs and attributes mean.
#pragma once

#include "operators.hpp"

namespace gnx {
namespace operators {

inline int64_t bytes_of_levels(int64_t bits, int64_t width) { return bits == 4 ? (width + 1) / 2 : width; }

inline uint8_t *write_bytes(Host &host, size_t place, int64_t rows, int64_t width) {
  void *const data = host.write(place, Element::U8, {rows, width});
  on_large_pages(data, rows * width);
  return static_cast<uint8_t *>(data);
}

// How a result leaves narrow; `out` is [rows, bytes].
inline gnx_narrow narrow_of(int64_t bits, int64_t zero, const Tensor &step, int64_t width, Host &host, int64_t rows) {
  const float *const steps = floats(step, width, "there has to be a step for each column");
  demand(bits == 4 || bits == 8, "levels have 4 bits or 8");
  uint8_t *const out = write_bytes(host, 0, rows, bytes_of_levels(bits, width));
  return {steps, static_cast<int32_t>(bits), static_cast<int32_t>(zero), out};
}

enum Given { NOT_GIVEN = 0, GIVEN_ALONE = 1, GIVEN_BESIDES = 2 };

inline gnx_quantiser quantiser_of(const Tensor &step, const Tensor &bits, bool is_signed, bool nearest) {
  demand(bits.element == Element::U8 && bits.count() == step.count(), "there has to be a width for each step");
  return {floats(step, step.count(), "steps have to be float32"), static_cast<const uint8_t *>(bits.data),
          step.count(), is_signed, nearest};
}

// Inputs: x, step, given_step?, given_bits?
inline void narrow(const Settings &settings, Host &host) {
  const Tensor x = host.read(0);
  const float *const values = floats(x, x.count(), "x has to be float32");
  const gnx_narrow to = narrow_of(settings.bits, settings.zero, host.read(1), x.width(), host, x.rows());
  gnx_given given{};
  if (settings.given != NOT_GIVEN) {
    given.quantiser = quantiser_of(host.read(2), host.read(3), settings.given_signed, false);
    given.out = write_bytes(host, 1, x.rows(), x.width());
  }
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_narrow(values, x.rows(), x.width(), &to, &given, &threads));
}

// What rows of levels are that a sum reads, and what finishes the sum: the first inputs are x, rowptr, col and step, the
// next weight?, scale?, root? and bias?
inline gnx_aggregate narrow_reduction(const Settings &settings, const Host &host) {
  const Tensor x = host.read(0), rowptr = host.read(1), col = host.read(2), step = host.read(3);
  demand(x.element == Element::U8 && x.sizes.size() == 2, "x has to be rows of uint8");
  demand(static_cast<bool>(step) && (settings.bits == 4 || settings.bits == 8), "levels have a step, and 4 bits or 8");
  gnx_aggregate work{};
  work.csr = structure(rowptr, col, x.rows());
  work.x = x.data;
  work.width = step.count();
  demand(x.width() == bytes_of_levels(settings.bits, work.width), "x has another size than its steps");
  work.type = settings.bits == 4 ? GNX_U4 : GNX_U8;
  work.zero = static_cast<int32_t>(settings.zero);
  work.reduce = settings.reduce;
  work.heads = 1;
  work.column_scale = floats(step, work.width, "steps have to be float32");
  work.weight = floats(host.read(4), work.csr.num_slots, "there has to be a weight for each slot");
  work.epilogue = epilogue_of(settings, host.read(6), host.read(7), work.csr.num_rows, work.width);
  work.epilogue.scale = floats(host.read(5), work.csr.num_rows, "there has to be a scale for each row");
  return work;
}

// Inputs: x, rowptr, col, step, weight?, scale?, root?, bias?
inline void narrow_aggregate(const Settings &settings, Host &host) {
  gnx_aggregate work = narrow_reduction(settings, host);
  work.out = write_floats(host, {work.csr.num_rows, work.width});
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_aggregate(&work, &threads));
}

// The quantiser, the matrix and its steps that stand from input `place` on: step, bits, matrix, matrix_step.
inline gnx_level_product level_product(const Host &host, size_t place, bool is_signed, bool nearest) {
  const Tensor matrix = host.read(place + 2);
  gnx_level_product product{};
  product.matrix = host.matrix(place + 2);
  demand(static_cast<bool>(product.matrix), "matrices have to be constant");
  demand(matrix.element == Element::I8, "the matrix has to be int8");
  product.quantiser = quantiser_of(host.read(place), host.read(place + 1), is_signed, nearest);
  product.step = floats(host.read(place + 3), matrix.rows(), "there has to be a step for each row of the matrix");
  return product;
}

// Rows that are floats, or levels already.
inline void take_rows(const Tensor &rows, int64_t count, gnx_level_product &product, const char *message) {
  if (rows.element != Element::U8) {
    product.rows = floats(rows, count, message);
    return;
  }
  demand(rows.count() == count, message);
  product.levels = static_cast<const uint8_t *>(rows.data);
}

// What follows `first`, where the first product's step is: that product, scale?, own?, own's product, root?, bias?,
// next_step?, given_step?, given_bits?. Without next_step the result is floats. Given alone, as levels of its rows, it
// has the steps of these in next_step; given besides, as a second result, in given_step.
inline void level_linear(const Settings &settings, Host &host, size_t first, gnx_level_linear &work) {
  const int64_t rows = work.sum.csr.num_rows;
  const gnx_level_product x = work.product;
  work.product = level_product(host, first, settings.rows_signed, settings.nearest);
  work.product.rows = x.rows;
  work.product.levels = x.levels;
  const Tensor own = host.read(first + 5), own_matrix = host.read(first + 8), next = host.read(first + 12);
  demand(!own == !own_matrix, "own and own_matrix belong together");
  if (own) {
    work.own = level_product(host, first + 6, settings.own_signed, settings.nearest);
    take_rows(own, rows * own_matrix.width(), work.own, "own has another size than own_matrix");
  }
  const int64_t width = host.read(first + 2).rows();
  work.epilogue = epilogue_of(settings, host.read(first + 10), host.read(first + 11), rows, width);
  work.epilogue.scale = floats(host.read(first + 4), rows, "there has to be a scale for each row");
  const bool alone = settings.given == GIVEN_ALONE;
  demand(alone ? static_cast<bool>(next) : !next == (settings.next_bits == 0), "next_step and next_bits belong together");
  if (settings.given != NOT_GIVEN) {
    const Tensor step = alone ? next : host.read(first + 13);
    work.given.quantiser = quantiser_of(step, host.read(first + 14), settings.given_signed, false);
    work.given.out = write_bytes(host, alone ? 0 : 1, rows, width);
  }
  if (!alone && next) work.next = narrow_of(settings.next_bits, settings.next_zero, next, width, host, rows);
  if (!alone && !next) work.out = write_floats(host, {rows, width});
  const gnx_threads threads = host.threads();
  demand_kernel(gnx_run_level_linear(&work, &threads));
}

constexpr size_t NARROW_LINEAR = 1, NARROW_AGGREGATE_LINEAR = 8;  // inputs where the products begin
constexpr size_t TO_MATRIX = 2, TO_OWN_MATRIX = 8;                // from there

// Inputs: x, then row_step, row_bits, matrix, matrix_step, scale?, own?, own_step?, own_bits?, own_matrix?,
// own_matrix_step?, root?, bias?, next_step?, given_step?, given_bits?
inline void narrow_linear(const Settings &settings, Host &host) {
  const Tensor x = host.read(0), matrix = host.read(NARROW_LINEAR + TO_MATRIX);
  gnx_level_linear work{};
  work.sum.csr.num_rows = x.rows();
  demand(x.sizes.size() == 2, "x has another size than the matrix");
  take_rows(x, x.rows() * matrix.width(), work.product, "x has another size than the matrix");
  level_linear(settings, host, NARROW_LINEAR, work);
}

// Inputs: x, rowptr, col, step, weight?, sum_scale?, sum_root?, sum_bias?, then as of narrow_linear from row_step on
inline void narrow_aggregate_linear(const Settings &settings, Host &host) {
  gnx_level_linear work{};
  Settings of_sum = settings;
  of_sum.activation = settings.sum_activation;
  of_sum.slope = settings.sum_slope;
  work.sum = narrow_reduction(of_sum, host);
  level_linear(settings, host, NARROW_AGGREGATE_LINEAR, work);
}

inline void narrow_attention(const Settings &settings, Host &host) { attend(settings, host, Element::U8); }

}  // namespace operators
}  // namespace gnx
