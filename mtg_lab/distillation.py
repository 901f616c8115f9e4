"""What a student learns from a frozen teacher; every term is a function of arrays and returns a scalar."""

import torch
from torch import Tensor
from torch.nn import functional


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), averaged over samples and voxels.

    Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), equation 1 and section 2; the factor T^2 keeps the gradient's size
    independent of T. The teacher gets no gradient.

    Args:
        student, teacher: logits [B, K, ...].
        temperature: T.
    """
    log_q = functional.log_softmax(student.float() / temperature, dim=1)
    log_p = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    return divergence.mean() * temperature**2


def latent_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of the student's fused latent to the teacher's anchor, in units of the teacher's spread.

    The spread is taken per channel over samples and space, without gradient, so that the weight of the term means the
    same for teachers whose latents differ in scale. The authors name no distillation loss; this one is the lab's.

    Args:
        student, teacher: [B, C, ...].
    """
    target = teacher.detach().float()
    axes = [0, *range(2, target.ndim)]
    variance = target.var(dim=axes, keepdim=True) + 1e-5
    return ((student.float() - target).square() / variance).mean()


def frozen(module: torch.nn.Module) -> None:
    """Put the module into eval mode and stop its gradients."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.eval()
