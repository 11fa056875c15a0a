"""BatchNorm over all processes that also works on the CPU.

torch's ``nn.SyncBatchNorm`` is for CUDA; on the CPU its data-parallel wrapper refuses it, too.
Detectron2's ``NaiveSyncBatchNorm`` weights processes and not pixels, computes the variance as
E[x^2] - E[x]^2, which loses digits, and keeps the biased one; results then differ from one process
with the whole batch.

Shape letters: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# What nn.SyncBatchNorm.forward calls; the layer itself cannot be a base class, see above.
from torch.nn.modules._functions import SyncBatchNorm as _NormalizeOnCUDA


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with the statistics of all pixels of all processes, whatever each of them has.

    Over NCCL it is torch's own ``nn.SyncBatchNorm``, over gloo the same in plain torch. With one
    process, and in evaluation, it is BatchNorm. Parameters and buffers have BatchNorm's names.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input (N, C, H, W), in its own dtype."""
        num_processes = dist.get_world_size() if dist.is_initialized() else 1
        if not self.training or num_processes == 1:
            return super().forward(input)
        self._check_input_dim(input)
        if self.num_batches_tracked is not None:  # None where a checkpointed part runs again
            self.num_batches_tracked.add_(1)
        if input.is_cuda:
            output: Tensor = _NormalizeOnCUDA.apply(
                *(input, self.weight, self.bias, self.running_mean, self.running_var),
                *(self.eps, self.momentum, dist.group.WORLD, num_processes),
            )
            return output
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        output, mean, variance, count = _Normalize.apply(values, self.weight, self.bias, self.eps)
        # `replace_in` takes no norm without them.
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return output.to(input.dtype)

    @classmethod
    def replace_in(cls, module: nn.Module) -> None:
        """Put one of these in the place of each ``nn.BatchNorm2d`` below ``module``, in place.

        Raises:
            ValueError: for a BatchNorm without parameters, running statistics or momentum.
        """
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, cls._from_batch_norm(child))
            else:
                cls.replace_in(child)

    @classmethod
    def _from_batch_norm(cls, source: nn.BatchNorm2d) -> SyncBatchNorm2d:
        if not (source.affine and source.track_running_stats and source.momentum is not None):
            raise ValueError(
                "BatchNorm to synchronise: expected one with parameters, running statistics and a "
                f"momentum, got {source}"
            )
        norm = cls(source.num_features, eps=source.eps, momentum=source.momentum)
        norm.weight, norm.bias = source.weight, source.bias
        norm.running_mean, norm.running_var = source.running_mean, source.running_var
        norm.num_batches_tracked = source.num_batches_tracked
        norm.training = source.training
        return norm


class _Normalize(torch.autograd.Function):
    """(x - mean) / deviation * weight + bias with statistics over all processes.

    The variance is summed around the common mean in a second pass, as exact as one process's.
    Source of the gradient: Ioffe and Szegedy, arXiv 1502.03167, section 3, with its sums taken
    over all processes; those of weight and bias stay sums over this process, as the data-parallel
    wrapper averages them like all other parameters'.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = x.new_tensor([x.numel() // x.shape[1]])
        sums = torch.cat([_sum_per_channel(x), count])
        dist.all_reduce(sums)
        count = sums[-1]
        mean = sums[:-1] / count
        centred = x - _as_map(mean)
        # What rounding has left of the mean is found, and taken away, in the same second pass.
        sums = torch.cat([_sum_per_channel(centred), _sum_per_channel(centred.square())])
        dist.all_reduce(sums)
        rest, mean_square = (sums / count).chunk(2)
        variance = mean_square - rest.square()
        mean = mean + rest
        centred = centred - _as_map(rest)
        inverse_deviation = (variance + eps).rsqrt()
        normalised = centred * _as_map(inverse_deviation)
        ctx.save_for_backward(normalised, weight, inverse_deviation, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised * _as_map(weight) + _as_map(bias), mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normalised, weight, inverse_deviation, count = ctx.saved_tensors
        grad_bias = _sum_per_channel(grad_output)
        grad_weight = _sum_per_channel(grad_output * normalised)
        sums = torch.cat([grad_bias, grad_weight])
        dist.all_reduce(sums)
        mean_grad, mean_product = (sums / count).chunk(2)
        grad_input = grad_output - _as_map(mean_grad) - normalised * _as_map(mean_product)
        grad_input = grad_input * _as_map(weight * inverse_deviation)
        return grad_input, grad_weight, grad_bias, None


def _sum_per_channel(x: Tensor) -> Tensor:
    return x.sum(dim=(0, 2, 3))


def _as_map(per_channel: Tensor) -> Tensor:
    return per_channel[:, None, None]
