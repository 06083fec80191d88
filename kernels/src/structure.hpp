// Check a structure, and deal its slots out.
#pragma once

#include <vector>

#include "plan.hpp"
#include "threads.hpp"

namespace gnx {

struct Work {
  Structure structure;
  std::vector<Segment> segments;
  std::vector<size_t> hubs;  // the first segment of each hub, then the number of segments
  size_t chunks;

  // What a task works on: first the segments of hubs, which take longest, then chunks of rows.
  size_t tasks() const { return segments.size() + chunks; }
  Span span(size_t task) const;
  size_t num_hubs() const { return hubs.size() - 1; }
};

// Check sizes and pointers, then rowptr; say how many slots a chunk has when a slot moves so many bytes.
int32_t deal_out(const gnx_csr &csr, int64_t slot_bytes, Work &work);

// Check that the columns of a task's slots are in range.
bool columns_fit(const Structure &structure, const Span &span);

}  // namespace gnx
