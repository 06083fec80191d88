// Some rows at a time: reduced, and worked on while they are in the cache.
#pragma once

#include <atomic>
#include <vector>

#include "dispatch.hpp"
#include "scratch.hpp"
#include "structure.hpp"

namespace gnx {

class Tiles {
 public:
  // Reduce as `sum` says, or only count its rows where nothing is reduced; `tile` rows are best worked on together.
  Tiles(const gnx_aggregate &sum, bool reduces, int64_t tile, const Path &path, const gnx_threads *threads);

  // Work on all rows, unless the output is `empty`; a structure that is read is checked all the same.
  int32_t run(bool empty);

 protected:
  ~Tiles() = default;

  // Work on rows from `first` on, of which `reduced` holds what is reduced, null where nothing is.
  virtual void work_on(const float *reduced, int64_t first, int64_t count, float *scratch) = 0;

  size_t scratch_ = 0;  // floats that work_on is given

 private:
  int32_t run_rows();
  void run_span(const Span &span);
  bool is_hub(int64_t row) const;
  int64_t next_row(const Span &span, int64_t row) const;
  int64_t end_of_tile(const Span &span, int64_t first) const;
  void reduce(const Structure &structure, const Span &span, float *out);
  void join(size_t hub);

  const gnx_aggregate sum_;
  const bool reduces_;
  const int64_t tile_;
  const Path &path_;
  const gnx_threads *threads_;
  Work dealt_;
  Sum kind_ = Sum::plain;
  std::vector<Block> blocks_;
  std::vector<float> sums_;
  std::atomic<int32_t> status_{GNX_OK};
};

}  // namespace gnx
