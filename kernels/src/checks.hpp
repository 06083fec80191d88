// What every entry of the C interface asks before it works.
#pragma once

#include <exception>
#include <vector>

#include "plan.hpp"

namespace gnx {

bool known(const gnx_epilogue &epilogue);

// Whether a matrix with a row for each row, slot and source can have an address.
bool buffers_fit(const gnx_csr &csr, int64_t width);

int32_t check(const gnx_aggregate &work);

Sum sum_of(const gnx_aggregate &work);

inline bool has_levels(const gnx_aggregate &work) { return work.type == GNX_U8 || work.type == GNX_U4; }

// Bytes of a row of `width` numbers.
int64_t row_bytes(int32_t type, int64_t width);

bool known(const gnx_narrow &narrow);

int32_t check_quantiser(const gnx_quantiser &quantiser);

// Of rows that turn into levels before all of a row is known.
int32_t check_given(const gnx_quantiser &quantiser);

// What a result is handed on through; `inverse` is written.
Narrow narrow_of(const gnx_narrow &to, int64_t width, std::vector<float> &inverse);

// What reduces these rows.
inline const Reduce &reduce_of(const gnx_aggregate &work, const Path &path) {
  return has_levels(work) ? path.levels.reduce : path.reduce;
}

// Nothing may leave the C interface but a status.
template <class Call>
int32_t guarded(Call call) {
  try {
    return call();
  } catch (const std::exception &) {
    return GNX_MEMORY;
  }
}

}  // namespace gnx
