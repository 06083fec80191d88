// Linear layers over reduced rows: some rows are reduced, and multiplied while they are in the cache.
#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "blocks.hpp"
#include "checks.hpp"
#include "dispatch.hpp"
#include "scratch.hpp"
#include "structure.hpp"

struct gnx_matrix {
  const gnx::Product *product;
  std::vector<float> memory;
  gnx::Packed packed;
};

namespace gnx {
namespace {

constexpr int64_t MOST_WIDTH = INT32_MAX;
constexpr int64_t TILES = 4;     // that a task without edges multiplies
constexpr int64_t LARGER = 4;    // as many slots as an aggregation deals out: so few tiles are left half empty
constexpr int MOST_FACTORS = 2;

int32_t check(const gnx_linear &work) {
  const gnx_matrix *matrix = work.matrix ? work.matrix : work.own_matrix;
  if (!matrix) return GNX_NULL;
  if (!known(work.epilogue) || (work.own_matrix && work.own_matrix->product != matrix->product)) return GNX_OPTION;
  const int64_t out_width = matrix->packed.out_width;
  if (work.own_matrix && work.own_matrix->packed.out_width != out_width) return GNX_SHAPE;
  const int64_t own_width = work.own_matrix ? work.own_matrix->packed.width : 0;
  const gnx_csr &csr = work.sum.csr;
  if (csr.num_rows < 0 || csr.num_rows > INT64_MAX / 64 / std::max<int64_t>({own_width, out_width, 1}))
    return GNX_SHAPE;
  const bool writes = csr.num_rows > 0 && out_width > 0;
  if (writes && (!work.out || (own_width > 0 && !work.own))) return GNX_NULL;
  if (!work.matrix) return GNX_OK;
  if (work.matrix->packed.width != work.sum.width) return GNX_SHAPE;
  gnx_aggregate sum = work.sum;
  sum.epilogue = {};
  float none;
  sum.out = &none;  // what is reduced stays here, and an output without columns may well have no address
  return gnx::check(sum);
}

class Linear {
 public:
  Linear(const gnx_linear &work, const Path &path, const gnx_threads *threads)
      : work_(work), path_(path), threads_(threads), sum_(work.sum) {
    sum_.epilogue = {};
    const gnx_matrix &matrix = work.matrix ? *work.matrix : *work.own_matrix;
    product_ = matrix.product;
    empty_ = sum_.csr.num_rows == 0 || matrix.packed.out_width == 0;
    past_ = sum_.csr.num_rows * matrix.packed.out_width * static_cast<int64_t>(sizeof(float)) > PAST_BYTES;
    for (const gnx_matrix *each : {work.matrix, work.own_matrix}) {
      if (each) scratch_ += product_->scratch_size(product_->tile, each->packed);
    }
  }

  int32_t run() {
    if (!work_.matrix) return multiply_rows();
    const int64_t slot_bytes = sum_.width * bytes_of(sum_.type);
    const int32_t status = deal_out(sum_.csr, std::max<int64_t>(slot_bytes / LARGER, 1), dealt_);
    if (status != GNX_OK || empty_) return status;
    kind_ = sum_of(sum_);
    blocks_ = cut_columns(sum_, kind_, path_);
    sums_.resize(dealt_.segments.size() * sum_.width);
    for_each(threads_, dealt_.tasks(), [this](size_t task) { work_on(dealt_.span(task)); });
    if (status_ == GNX_OK) for_each(threads_, dealt_.num_hubs(), [this](size_t hub) { join(hub); });
    return status_;
  }

 private:
  int32_t multiply_rows() {
    if (empty_) return GNX_OK;
    const int64_t rows = sum_.csr.num_rows, stretch = TILES * product_->tile;
    for_each(threads_, static_cast<size_t>((rows + stretch - 1) / stretch), [=](size_t task) {
      const int64_t begin = static_cast<int64_t>(task) * stretch, end = std::min(begin + stretch, rows);
      float *const own = scratch(scratch_);
      if (!own) status_ = GNX_MEMORY;
      for (int64_t row = begin; own && row < end; row += product_->tile)
        multiply(nullptr, row, std::min(product_->tile, end - row), own);
    });
    return status_;
  }

  void work_on(const Span &span) {
    if (!columns_fit(dealt_.structure, span)) status_ = GNX_INDEX;
    if (status_ != GNX_OK) return;
    if (span.segment) return reduce(dealt_.structure, span, nullptr);
    float *const own = scratch(product_->tile * sum_.width + LINE_FLOATS + scratch_);
    if (!own) {
      status_ = GNX_MEMORY;
      return;
    }
    const Structure &structure = dealt_.structure;
    int64_t first = next_row(span, span.first);
    while (first < span.last) {
      const int64_t last = end_of_tile(span, first);
      Structure tile = structure;
      tile.out_row = first;
      reduce(tile, {first, last, nullptr}, own);
      multiply(own, first, last - first, own + up_to_line(product_->tile * sum_.width));
      first = next_row(span, last);
    }
  }

  // Hubs are left to their segments: no tile holds one.
  bool is_hub(int64_t row) const {
    const Structure &structure = dealt_.structure;
    return structure.rowptr[row + 1] - structure.rowptr[row] > structure.chunk;
  }

  int64_t next_row(const Span &span, int64_t row) const {
    while (row < span.last && is_hub(row)) ++row;
    return row;
  }

  int64_t end_of_tile(const Span &span, int64_t first) const {
    int64_t row = first;
    while (row < span.last && row < first + product_->tile && !is_hub(row)) ++row;
    return row;
  }

  void reduce(const Structure &structure, const Span &span, float *out) {
    gnx_aggregate part = sum_;
    part.out = out;
    const Parts parts{sums_.data(), nullptr, nullptr};
    for (const Block &block : blocks_)
      path_.aggregate(part, structure, block, block.per_head ? Sum::by_head : kind_, span, parts);
  }

  void join(size_t hub) {
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
    path_.join(part, structure, &dealt_.segments[first], count, kind_, {sums_.data(), nullptr, nullptr});
    multiply(own, row, 1, own + up_to_line(sum_.width));
  }

  void multiply(const float *reduced, int64_t first, int64_t count, float *own) {
    Factor factors[MOST_FACTORS];
    int num = 0;
    if (work_.matrix) factors[num++] = {reduced, work_.matrix->packed};
    if (work_.own_matrix) {
      const Packed &packed = work_.own_matrix->packed;
      factors[num++] = {work_.own + first * packed.width, packed};
    }
    product_->multiply({factors, num, first, count, work_.epilogue, work_.out, own, past_});
  }

  const gnx_linear &work_;
  const Path &path_;
  const gnx_threads *threads_;
  gnx_aggregate sum_;
  const Product *product_;
  size_t scratch_ = 0;
  bool empty_, past_;
  Work dealt_;
  Sum kind_ = Sum::plain;
  std::vector<Block> blocks_;
  std::vector<float> sums_;
  std::atomic<int32_t> status_{GNX_OK};
};

int32_t linear(const gnx_linear &work, const gnx_threads *threads) {
  const Path *path = current_path();
  if (!path) return GNX_OPTION;
  const int32_t status = check(work);
  return status == GNX_OK ? Linear(work, *path, threads).run() : status;
}

int32_t pack(const float *values, int64_t out_width, int64_t width, gnx_matrix **out) {
  const Path *path = current_path();
  if (!path) return GNX_OPTION;
  if (out_width < 0 || width < 0 || out_width > MOST_WIDTH || width > MOST_WIDTH) return GNX_SHAPE;
  if (out_width > INT64_MAX / 64 / std::max<int64_t>(width, 1)) return GNX_SHAPE;
  if (!out || (!values && out_width > 0 && width > 0)) return GNX_NULL;
  auto matrix = std::make_unique<gnx_matrix>();
  matrix->product = &path->product;
  matrix->memory.resize(path->product.packed_size(out_width, width) + LINE_FLOATS);
  float *const begin = at_line(matrix->memory.data());
  path->product.pack(values, out_width, width, begin);
  matrix->packed = {out_width, width, begin};
  *out = matrix.release();
  return GNX_OK;
}

}  // namespace
}  // namespace gnx

extern "C" {

int32_t gnx_pack_matrix(const float *values, int64_t out_width, int64_t width, gnx_matrix **out) {
  return gnx::guarded([=] { return gnx::pack(values, out_width, width, out); });
}

void gnx_free_matrix(gnx_matrix *matrix) { delete matrix; }

int32_t gnx_run_linear(const gnx_linear *work, const gnx_threads *threads) {
  return work ? gnx::guarded([=] { return gnx::linear(*work, threads); }) : GNX_NULL;
}
}
