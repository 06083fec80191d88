// Cut the columns of a matrix into blocks that fit the registers.
#pragma once

#include <vector>

#include "plan.hpp"

namespace gnx {

// Blocks for `width` columns that `heads` share, with vectors of at most `lanes` numbers, `most` of them at a time.
std::vector<Block> cut_columns(int64_t width, int64_t heads, int32_t lanes, int32_t most);

// The blocks of one aggregation.
std::vector<Block> cut_columns(const gnx_aggregate &work, Sum sum, const Path &path);

}  // namespace gnx
