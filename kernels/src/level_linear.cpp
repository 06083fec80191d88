// Linear layers of levels: rows turn into levels, and are multiplied as integers while they are in the cache.
#include <algorithm>
#include <memory>

#include "checks.hpp"
#include "matrix.hpp"
#include "tiles.hpp"

namespace gnx {
namespace {

constexpr int64_t MOST_WIDTH = INT32_MAX;
constexpr int64_t MOST_COLUMNS = 1 << 16;  // 255 * 128 times so many are below 2^31
constexpr int MOST_FACTORS = 2;

float reach_of(const gnx_quantiser &quantiser, int64_t entry) {
  const int32_t bits = quantiser.bits[entry];
  return quantiser.step[entry] * static_cast<float>((1 << (quantiser.is_signed ? bits - 1 : bits)) - 1);
}

// Where reaches rise: which entry has which, the first one of those that have the same.
struct Reaches {
  std::vector<float> reach;
  std::vector<int64_t> group;

  explicit Reaches(const gnx_quantiser &quantiser) {
    if (!quantiser.nearest || !quantiser.step || !quantiser.bits) return;
    std::vector<int64_t> order(quantiser.count);
    std::vector<float> all(quantiser.count);
    for (int64_t entry = 0; entry < quantiser.count; ++entry) {
      order[entry] = entry;
      all[entry] = reach_of(quantiser, entry);
    }
    const auto less = [&](int64_t one, int64_t other) {
      return all[one] < all[other] || (all[one] == all[other] && one < other);
    };
    // Steps may be no numbers, which have no order: then any will do, but it has to be one.
    for (float &each : all) each = each == each ? each : 0.0f;
    if (!std::is_sorted(order.begin(), order.end(), less)) std::sort(order.begin(), order.end(), less);
    for (const int64_t entry : order) {
      if (!reach.empty() && reach.back() == all[entry]) continue;
      reach.push_back(all[entry]);
      group.push_back(entry);
    }
  }
};

bool has_rows(const gnx_level_product &product) { return product.rows || product.levels; }

int32_t check(const gnx_level_product &product, int64_t num_rows, int64_t out_width) {
  const gnx_quantiser &quantiser = product.quantiser;
  if (product.matrix->levels.out_width != out_width || quantiser.count < 0) return GNX_SHAPE;
  const int64_t width = product.matrix->levels.width;
  if (num_rows < 0 || num_rows > INT64_MAX / 64 / std::max<int64_t>({width, out_width, 1})) return GNX_SHAPE;
  if (num_rows == 0 || out_width == 0) return GNX_OK;
  if (!product.step) return GNX_NULL;
  return product.levels ? check_given(quantiser) : check_quantiser(quantiser);
}

int32_t check(const gnx_level_linear &work) {
  const gnx_matrix *matrix = work.product.matrix, *own = work.own.matrix;
  if (!matrix) return GNX_NULL;
  if (!known(work.epilogue) || (work.next.out && !known(work.next))) return GNX_OPTION;
  if (!matrix->level_product || (own && own->level_product != matrix->level_product)) return GNX_OPTION;
  const int64_t out_width = matrix->levels.out_width, rows = work.sum.csr.num_rows;
  int32_t status = check(work.product, rows, out_width);
  if (status == GNX_OK && own) status = check(work.own, rows, out_width);
  if (status != GNX_OK) return status;
  const bool writes = rows > 0 && out_width > 0;
  if (writes && (work.next.out ? !work.next.step : !work.out && !work.given.out)) return GNX_NULL;
  if (writes && own && own->levels.width > 0 && !has_rows(work.own)) return GNX_NULL;
  if (work.given.out && writes) status = check_given(work.given.quantiser);
  if (status != GNX_OK || has_rows(work.product)) return status;
  if (matrix->levels.width != work.sum.width) return GNX_SHAPE;
  gnx_aggregate sum = work.sum;
  sum.next = {};
  float none;
  sum.out = &none;  // what is reduced stays here
  return gnx::check(sum);
}

class LevelLinear final : public Tiles {
 public:
  LevelLinear(const gnx_level_linear &work, const gnx_aggregate &sum, const Path &path, const gnx_threads *threads)
      : Tiles(sum, !has_rows(work.product), work.product.matrix->level_product->tile, path, threads),
        work_(work),
        product_(*work.product.matrix->level_product),
        reaches_{Reaches(work.product.quantiser), Reaches(own_of(work))} {
    add(work.product, reaches_[0]);
    if (work.own.matrix) add(work.own, reaches_[1]);
  }

  int32_t run() {
    const int64_t rows = work_.sum.csr.num_rows, out_width = work_.product.matrix->levels.out_width;
    const bool empty = rows == 0 || out_width == 0;
    past_ = rows * out_width * static_cast<int64_t>(sizeof(float)) > PAST_BYTES;
    if (work_.next.out && !empty) next_ = narrow_of(work_.next, out_width, inverse_);
    return Tiles::run(empty);
  }

 private:
  static gnx_quantiser own_of(const gnx_level_linear &work) {
    return work.own.matrix ? work.own.quantiser : gnx_quantiser{};
  }

  void add(const gnx_level_product &product, const Reaches &reaches) {
    const int64_t count = static_cast<int64_t>(reaches.reach.size());
    quantisers_[num_] = {product.quantiser, reaches.reach.data(), reaches.group.data(), count};
    const PackedLevels &packed = product.matrix->levels;
    factors_[num_] = {product.levels ? nullptr : product.rows, product.levels, &quantisers_[num_], packed, product.step};
    scratch_ += up_to_line(product_.scratch_size(product_.tile, packed.width) / sizeof(float) + 1);
    ++num_;
  }

  void work_on(const float *reduced, int64_t first, int64_t count, float *own) override {
    LevelFactor factors[MOST_FACTORS];
    for (int place = 0; place < num_; ++place) {
      factors[place] = factors_[place];
      const int64_t begin = first * factors[place].packed.width;
      if (factors[place].rows) factors[place].rows += begin;
      if (factors[place].levels) factors[place].levels += begin;
    }
    if (!has_rows(work_.product)) factors[0].rows = reduced;
    const Narrow *const next = work_.next.out ? &next_ : nullptr;
    const gnx_given *const given = work_.given.out ? &work_.given : nullptr;
    product_.multiply({factors, num_, first, count, work_.epilogue, work_.out, next, given, own, past_});
  }

  const gnx_level_linear &work_;
  const LevelProduct &product_;
  const Reaches reaches_[MOST_FACTORS];
  Quantiser quantisers_[MOST_FACTORS];
  LevelFactor factors_[MOST_FACTORS];
  int num_ = 0;
  std::vector<float> inverse_;
  Narrow next_{};
  bool past_ = false;
};

int32_t level_linear(const gnx_level_linear &work, const gnx_threads *threads) {
  const Path *path = current_path();
  if (!path) return GNX_OPTION;
  const int32_t status = check(work);
  if (status != GNX_OK) return status;
  gnx_aggregate sum = work.sum;
  sum.next = {};
  return LevelLinear(work, sum, *path, threads).run();
}

int32_t pack(const int8_t *values, int64_t out_width, int64_t width, gnx_matrix **out) {
  const Path *path = current_path();
  if (!path) return GNX_OPTION;
  if (out_width < 0 || width < 0 || out_width > MOST_WIDTH || width > MOST_COLUMNS) return GNX_SHAPE;
  if (!out || (!values && out_width > 0 && width > 0)) return GNX_NULL;
  auto matrix = std::make_unique<gnx_matrix>();
  const LevelProduct &product = path->levels.product;
  matrix->level_product = &product;
  matrix->memory.resize(product.packed_size(out_width, width) / sizeof(float) + 2 * LINE_FLOATS);
  matrix->sums.resize(out_width);
  for (int64_t row = 0; row < out_width; ++row) {
    for (int64_t column = 0; column < width; ++column) matrix->sums[row] += values[row * width + column];
  }
  float *const begin = at_line(matrix->memory.data());
  product.pack(values, out_width, width, begin);
  matrix->levels = {out_width, width, begin, matrix->sums.data()};
  *out = matrix.release();
  return GNX_OK;
}

}  // namespace
}  // namespace gnx

extern "C" {

int32_t gnx_pack_levels(const int8_t *values, int64_t out_width, int64_t width, gnx_matrix **out) {
  return gnx::guarded([=] { return gnx::pack(values, out_width, width, out); });
}

int32_t gnx_run_level_linear(const gnx_level_linear *work, const gnx_threads *threads) {
  return work ? gnx::guarded([=] { return gnx::level_linear(*work, threads); }) : GNX_NULL;
}
}
