#include "blocks.hpp"

#include "checks.hpp"

#include <algorithm>
#include <iterator>

namespace gnx {
namespace {

constexpr int64_t INT8_BLOCK = 8;
constexpr int32_t LEAST_BYTES = 16;  // of a vector of levels
constexpr int32_t COUNTS[] = {1, 2, 3, 4, 5, 6, 8, 12, 16};

int32_t at_least(int64_t count) {
  for (const int32_t listed : COUNTS) {
    if (listed >= count) return listed;
  }
  return COUNTS[std::size(COUNTS) - 1];
}

// The widest vectors that `columns` fill: neighbours overlap where they do not divide evenly.
int32_t lanes_for(int64_t columns, int32_t lanes) {
  while (lanes > columns) lanes = lanes > 4 ? lanes / 2 : 1;
  return lanes;
}

void cut_region(int64_t begin, int64_t end, int64_t head, int32_t lanes, int32_t most, std::vector<Block> &blocks) {
  const int64_t columns = end - begin;
  lanes = lanes_for(columns, lanes);
  const int64_t vectors = (columns + lanes - 1) / lanes;
  int64_t parts = (vectors + most - 1) / most;
  while (at_least((vectors + parts - 1) / parts) > std::min<int64_t>(vectors, most)) ++parts;
  const int32_t count = at_least((vectors + parts - 1) / parts);
  const int64_t whole = static_cast<int64_t>(count) * lanes;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t from = std::max(begin, std::min(begin + part * whole, end - whole));
    blocks.push_back({lanes, count, from, std::min(from + whole, end), head, 0});
  }
}

int32_t at_most(int64_t count) {
  int32_t found = 1;
  for (const int32_t listed : COUNTS) found = listed <= count ? listed : found;
  return found;
}

// Bytes of rows of levels. Blocks do not overlap, so that two that hand on halves of bytes never share one.
std::vector<Block> cut_bytes(int64_t bytes, int32_t widest, int32_t most) {
  std::vector<Block> blocks;
  for (int64_t begin = 0; begin < bytes;) {
    int32_t lanes = widest;
    while (lanes > bytes - begin && lanes > LEAST_BYTES) lanes /= 2;
    const int32_t count = at_most(std::min<int64_t>((bytes - begin + lanes - 1) / lanes, most));
    const int64_t end = std::min(begin + static_cast<int64_t>(count) * lanes, bytes);
    blocks.push_back({lanes, count, begin, end, 0, 0});
    begin = end;
  }
  return blocks;
}

std::vector<Block> cut_levels(const gnx_aggregate &work, Sum sum, const Path &path) {
  const int64_t bytes = row_bytes(work.type, work.width);
  const bool bytewise = work.type == GNX_U8;
  if (sum == Sum::weighted) {
    const int32_t columns = bytewise ? LEAST_BYTES : 2 * LEAST_BYTES, floats = path.lanes == 16 ? 16 : 8;
    return cut_bytes(bytes, LEAST_BYTES, std::max(1, floats * path.lanes / columns));
  }
  return cut_bytes(bytes, 4 * path.lanes, bytewise && path.lanes == 16 ? INT8_BLOCK : INT8_BLOCK / 2);
}

}  // namespace

std::vector<Block> cut_columns(int64_t width, int64_t heads, int32_t lanes, int32_t most) {
  std::vector<Block> blocks;
  if (width == 0) return blocks;
  const int64_t channels = width / heads, per_head = channels / lanes;
  if (heads > 1 && channels % lanes == 0 && per_head <= most && at_least(per_head) == per_head) {
    for (int64_t head = 0; head < heads;) {
      int64_t together = std::min(most / per_head, heads - head);
      while (at_least(together * per_head) != together * per_head) --together;
      const int32_t count = static_cast<int32_t>(together * per_head);
      blocks.push_back({lanes, count, head * channels, (head + together) * channels, head, per_head});
      head += together;
    }
    return blocks;
  }
  for (int64_t head = 0; head < heads; ++head)
    cut_region(head * channels, (head + 1) * channels, head, lanes, most, blocks);
  return blocks;
}

std::vector<Block> cut_columns(const gnx_aggregate &work, Sum sum, const Path &path) {
  const int64_t heads = work.weight ? work.heads : 1;
  if (has_levels(work)) return cut_levels(work, sum, path);
  if (sum == Sum::integers) return cut_columns(work.width, heads, 2 * path.lanes, INT8_BLOCK);
  return cut_columns(work.width, heads, path.lanes, path.most);
}

}  // namespace gnx
