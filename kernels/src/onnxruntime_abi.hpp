// The part of ONNX Runtime's C interface that custom operators use, declared from its public, append-only layout: the
// wheel ships no headers. Functions are found by their place in the table, which never changes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

struct Status;
struct Context;
struct Info;
struct Value;
struct ShapeInfo;
struct Domain;
struct Options;

constexpr uint32_t VERSION = 17;  // has everything below; newer runtimes still answer to it

enum Type : int32_t { ANY = 0, FLOAT = 1, UINT8 = 2, INT8 = 3, INT32 = 6, INT64 = 7, FLOAT16 = 10, BFLOAT16 = 16 };
enum Presence : int32_t { REQUIRED = 0, OPTIONAL = 1 };

struct ApiBase {
  const void *const *(*get_api)(uint32_t version);
  const char *(*version)();
};

// A custom operator as the runtime reads it. What is null is not asked for.
struct CustomOp {
  uint32_t version;
  void *(*create)(const CustomOp *, const void *, const Info *);
  const char *(*name)(const CustomOp *);
  const char *(*provider)(const CustomOp *);
  Type (*input_type)(const CustomOp *, size_t);
  size_t (*input_count)(const CustomOp *);
  Type (*output_type)(const CustomOp *, size_t);
  size_t (*output_count)(const CustomOp *);
  void (*compute)(void *, Context *);
  void (*destroy)(void *);
  Presence (*input_presence)(const CustomOp *, size_t);
  Presence (*output_presence)(const CustomOp *, size_t);
  int32_t (*input_memory)(const CustomOp *, size_t);
  int32_t (*least_inputs)(const CustomOp *);
  int32_t (*same_inputs)(const CustomOp *);
  int32_t (*least_outputs)(const CustomOp *);
  int32_t (*same_outputs)(const CustomOp *);
  Status *(*create_v2)(const CustomOp *, const void *, const Info *, void **);
  Status *(*compute_v2)(void *, Context *);
  Status *(*infer_shapes)(const CustomOp *, void *);
  int32_t (*start_version)(const CustomOp *);
  int32_t (*end_version)(const CustomOp *);
  size_t (*may_inplace)(int **, int **);
  void (*release_may_inplace)(int *, int *);
  size_t (*alias_map)(int **, int **);
  void (*release_alias_map)(int *, int *);
};

class Api {
 public:
  explicit Api(const void *const *table = nullptr) : table_(table) {}

  Status *fail(const char *message) const { return at<Status *, int32_t, const char *>(0)(1, message); }
  Status *create_domain(const char *name, Domain **out) const {
    return at<Status *, const char *, Domain **>(26)(name, out);
  }
  Status *add(Domain *domain, const CustomOp *op) const {
    return at<Status *, Domain *, const CustomOp *>(27)(domain, op);
  }
  Status *add(Options *options, Domain *domain) const {
    return at<Status *, Options *, Domain *>(28)(options, domain);
  }
  Status *data(Value *value, void **out) const { return at<Status *, Value *, void **>(51)(value, out); }
  Status *type(const ShapeInfo *info, Type *out) const {
    return at<Status *, const ShapeInfo *, Type *>(60)(info, out);
  }
  Status *rank(const ShapeInfo *info, size_t *out) const {
    return at<Status *, const ShapeInfo *, size_t *>(61)(info, out);
  }
  Status *sizes(const ShapeInfo *info, int64_t *out, size_t rank) const {
    return at<Status *, const ShapeInfo *, int64_t *, size_t>(62)(info, out, rank);
  }
  Status *shape(const Value *value, ShapeInfo **out) const {
    return at<Status *, const Value *, ShapeInfo **>(65)(value, out);
  }
  Status *attribute(const Info *info, const char *name, float *out) const {
    return at<Status *, const Info *, const char *, float *>(85)(info, name, out);
  }
  Status *attribute(const Info *info, const char *name, int64_t *out) const {
    return at<Status *, const Info *, const char *, int64_t *>(86)(info, name, out);
  }
  Status *attribute(const Info *info, const char *name, char *out, size_t *size) const {
    return at<Status *, const Info *, const char *, char *, size_t *>(87)(info, name, out, size);
  }
  Status *input_count(const Context *context, size_t *out) const {
    return at<Status *, const Context *, size_t *>(88)(context, out);
  }
  Status *input(const Context *context, size_t place, const Value **out) const {
    return at<Status *, const Context *, size_t, const Value **>(90)(context, place, out);
  }
  Status *output(Context *context, size_t place, const int64_t *sizes, size_t rank, Value **out) const {
    return at<Status *, Context *, size_t, const int64_t *, size_t, Value **>(91)(context, place, sizes, rank, out);
  }
  void release(Status *status) const { at<void, Status *>(93)(status); }
  void release(ShapeInfo *info) const { at<void, ShapeInfo *>(99)(info); }
  Status *constant_input(const Info *info, size_t place, int *constant, const Value **out) const {
    return at<Status *, const Info *, size_t, int *, const Value **>(249)(info, place, constant, out);
  }
  Status *parallel_for(const Context *context, void (*task)(void *, size_t), size_t count, void *data) const {
    return at<Status *, const Context *, void (*)(void *, size_t), size_t, size_t, void *>(274)(context, task, count,
                                                                                               count, data);
  }

 private:
  template <class Result, class... Arguments>
  Result (*at(size_t place) const)(Arguments...) {
    return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void *>(table_[place]));
  }

  const void *const *table_;
};

}  // namespace ort
