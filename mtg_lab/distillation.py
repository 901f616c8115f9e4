"""What a student learns from a frozen teacher; every term is a function of arrays and returns a scalar."""

import torch
from torch import Tensor
from torch.nn import functional

from mtg_lab.errors import InputError


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


def feature_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of the student's last features to the teacher's, in units of the teacher's spread.

    Hints on intermediate features (Romero et al. 2015, arXiv 1412.6550, equation 3), without a regressor between the
    two, so that both need as many channels. The unit is that of :func:`latent_distillation`.

    Args:
        student, teacher: [B, C, ...].

    Raises:
        InputError: the two have different shapes.
    """
    if student.shape != teacher.shape:
        raise InputError(
            f"feature distillation: the student's features are {list(student.shape[1:])}, the teacher's "
            f"{list(teacher.shape[1:])}; give both the same backbone options, or set feature_weight to 0"
        )
    return latent_distillation(student, teacher)


def prototypes(features: Tensor, target: Tensor) -> Tensor:
    """Mean of the features over each class of the reference: [B, C, ...] and [B, K, ...] to [B, K, C]."""
    f, y = features.flatten(2), target.flatten(2)
    return torch.bmm(y, f.transpose(1, 2)) / (y.sum(dim=2, keepdim=True) + 1e-5)


def similarity_maps(features: Tensor, target: Tensor) -> Tensor:
    """Cosine of every voxel's features with each class prototype of the same sample: [B, K, V].

    ProtoKD (Wang et al. 2023, arXiv 2303.09830, section 2.2). A class that a sample lacks has no prototype, and zeros.

    Args:
        features: float32 [B, C, ...].
        target: one-hot [B, K, ...] on the same grid.
    """
    directions = functional.normalize(prototypes(features, target), dim=2, eps=1e-5)
    f = features.flatten(2)
    # Divided by the length of f after the product: K maps instead of C.
    return torch.bmm(directions, f) / torch.linalg.vector_norm(f, dim=1, keepdim=True).clamp_min(1e-5)


def prototype_distillation(student: Tensor, teacher: Tensor, label: Tensor, classes: int) -> Tensor:
    """Mean squared difference of the two networks' similarity maps, over samples, their classes and voxels.

    ProtoKD (Wang et al. 2023, arXiv 2303.09830): what is near to what, inside a class and between classes, is taken
    over, not the features themselves; so the two networks may differ in width. The teacher gets no gradient.

    Args:
        student, teacher: last features, [B, C, ...] and [B, C', ...] on one grid.
        label: class indices [B, 1, ...].
        classes: K, background included.
    """
    target = functional.one_hot(label[:, 0], classes).movedim(-1, 1).float()
    ours, theirs = (similarity_maps(f.float(), target) for f in (student, teacher.detach()))
    return (ours - theirs).square().mean(dim=2)[target.flatten(2).any(dim=2)].mean()


def frozen(module: torch.nn.Module) -> None:
    """Put the module into eval mode and stop its gradients."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.eval()
