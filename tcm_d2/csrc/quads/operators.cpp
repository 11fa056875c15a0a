// The operators on quadrilaterals of torch.ops.tcm_d2.

#include <algorithm>
#include <tuple>

#include "../host.h"
#include "kernels.h"

namespace tcm_d2 {
namespace {

void check_quads(const at::Tensor& quads, const char* name) {
  TORCH_CHECK(quads.dim() == 3 && quads.size(1) == 4 && quads.size(2) == 2,
              name, ": expected shape (N, 4, 2), got ", quads.sizes());
  check_floating(quads, name);
}

void check_pair(const at::Tensor& quads1, const at::Tensor& quads2) {
  check_quads(quads1, "quads1");
  check_quads(quads2, "quads2");
  check_like(quads2, "quads2", quads1, "quads1");
}

void check_grouped(const at::Tensor& quads, const char* name,
                   const at::Tensor& groups, const char* groups_name) {
  check_quads(quads, name);
  TORCH_CHECK(quads.scalar_type() == at::kDouble, name,
              ": expected float64, got ", quads.scalar_type());
  check_integers(groups, groups_name, quads);
}

at::Tensor quad_iou_op(const at::Tensor& quads1, const at::Tensor& quads2) {
  check_pair(quads1, quads2);
  const Array rows(quads1), columns(quads2);
  at::Tensor iou = quads1.new_empty({rows.size(), columns.size()});
  dispatch(quads1, [&](auto place, auto zero) {
    using Scalar = decltype(zero);
    quad_iou<Scalar>(place, rows, rows.size(), columns, columns.size(),
                     iou.mutable_data_ptr<Scalar>());
  });
  return iou;
}

at::Tensor paired_quad_iou_op(const at::Tensor& quads1,
                              const at::Tensor& quads2) {
  check_pair(quads1, quads2);
  TORCH_CHECK(quads1.size(0) == quads2.size(0), "quads2: expected ",
              quads1.size(0), " quads as in quads1, got ", quads2.size(0));
  const Array first(quads1), second(quads2);
  at::Tensor iou = quads1.new_empty({first.size()});
  dispatch(quads1, [&](auto place, auto zero) {
    using Scalar = decltype(zero);
    paired_quad_iou<Scalar>(place, first, second, first.size(),
                            iou.mutable_data_ptr<Scalar>());
  });
  return iou;
}

at::Tensor minimum_area_boxes_op(const at::Tensor& quads) {
  check_quads(quads, "quads");
  const Array rows(quads);
  at::Tensor boxes = quads.new_empty({rows.size(), 5});
  dispatch(quads, [&](auto place, auto zero) {
    using Scalar = decltype(zero);
    minimum_area_boxes<Scalar>(place, rows, rows.size(),
                               boxes.mutable_data_ptr<Scalar>());
  });
  return boxes;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> overlapping_quads_op(
    const at::Tensor& quads1, const at::Tensor& quads2,
    const at::Tensor& group1, const at::Tensor& group2, double min_iou) {
  check_grouped(quads1, "quads1", group1, "group1");
  check_grouped(quads2, "quads2", group2, "group2");
  const Array one(quads1), two(quads2), keys1(group1), keys2(group2);
  const auto found = overlapping_quads(Cpu(), one, keys1, one.size(), two,
                                       keys2, two.size(), min_iou);
  int64_t total = 0;
  for (const auto& pairs : found) total += static_cast<int64_t>(pairs.size());
  at::Tensor first = group1.new_empty({total});
  at::Tensor second = group1.new_empty({total});
  at::Tensor iou = quads1.new_empty({total});
  int64_t* first_out = first.mutable_data_ptr<int64_t>();
  int64_t* second_out = second.mutable_data_ptr<int64_t>();
  double* iou_out = iou.mutable_data_ptr<double>();
  for (const auto& pairs : found) {
    for (const QuadPair& pair : pairs) {
      *first_out++ = pair.first;
      *second_out++ = pair.second;
      *iou_out++ = pair.iou;
    }
  }
  return {first, second, iou};
}

at::Tensor nms_quads_op(const at::Tensor& quads, const at::Tensor& scores,
                        const at::Tensor& group, double iou_threshold) {
  check_grouped(quads, "quads", group, "group");
  check_vector(scores, "scores", quads);
  const at::Tensor order =
      scores.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
  const Array sorted(quads.index_select(0, order));
  const Array keys(group.index_select(0, order));
  const std::vector<uint8_t> suppressed =
      suppressed_quads(Cpu(), sorted, keys, sorted.size(), iou_threshold);
  const int64_t num_kept =
      std::count(suppressed.begin(), suppressed.end(), uint8_t(0));
  at::Tensor keep = order.new_empty({num_kept});
  int64_t* kept = keep.mutable_data_ptr<int64_t>();
  const int64_t* original = order.const_data_ptr<int64_t>();
  for (size_t i = 0; i < suppressed.size(); ++i) {
    if (!suppressed[i]) *kept++ = original[i];
  }
  return keep;
}

void register_for_both(torch::Library& m) {
  m.impl("quad_iou", &quad_iou_op);
  m.impl("paired_quad_iou", &paired_quad_iou_op);
  m.impl("minimum_area_boxes", &minimum_area_boxes_op);
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  register_for_both(m);
  m.impl("overlapping_quads", &overlapping_quads_op);
  m.impl("nms_quads", &nms_quads_op);
}
#if defined(TCM_D2_WITH_CUDA)
TORCH_LIBRARY_IMPL(tcm_d2, CUDA, m) { register_for_both(m); }
#endif

}  // namespace tcm_d2
