"""What a student learns from a teacher; every term is a function of arrays and returns a scalar."""

from collections.abc import Mapping
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from mtg_lab.errors import InputError
from mtg_lab.shares import over_processes


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


def latent_distillation(student: Tensor, teacher: Tensor, together: bool = False) -> Tensor:
    """Mean squared distance of the student's fused latent to the teacher's anchor, in units of the teacher's spread.

    The spread is taken per channel over samples and space, without gradient, so that the weight of the term means the
    same for teachers whose latents differ in scale. The authors name no distillation loss; this one is the lab's.

    Args:
        student, teacher: [B, C, ...].
        together: the spread is that of the samples of all processes (:func:`mtg_lab.shares.over_processes`).
    """
    target = teacher.detach().float()
    variance = _variance(target, together) + 1e-5
    return ((student.float() - target).square() / variance).mean()


def _variance(values: Tensor, together: bool) -> Tensor:
    """Of each channel of [B, C, ...] over samples and space, as [1, C, 1, ...]; unbiased."""
    axes = [0, *range(2, values.ndim)]
    if not together:
        return values.var(dim=axes, keepdim=True)
    count, total = over_processes(values.new_tensor(values[:, 0].numel()), values.sum(dim=axes, keepdim=True))
    (squares,) = over_processes((values - total / count).square().sum(dim=axes, keepdim=True))
    return squares / (count - 1)


def feature_distillation(student: Tensor, teacher: Tensor, together: bool = False) -> Tensor:
    """Mean squared distance of the student's last features to the teacher's, in units of the teacher's spread.

    Hints on intermediate features (Romero et al. 2015, arXiv 1412.6550, equation 3), without a regressor between the
    two, so that both need as many channels. The unit is that of :func:`latent_distillation`.

    Args:
        student, teacher: [B, C, ...].
        together: as there.

    Raises:
        InputError: the two have different shapes.
    """
    if student.shape != teacher.shape:
        raise InputError(
            f"feature distillation: the student's features are {list(student.shape[1:])}, the teacher's "
            f"{list(teacher.shape[1:])}; give both the same backbone options, or set feature_weight to 0"
        )
    return latent_distillation(student, teacher, together)


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


STYLES = ("encoder", "style", "content")
_LEAST = 1e-8  # of a variance that is divided by


def style_matching(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], relative: bool = False) -> Tensor:
    """Mean squared difference of the two networks' Gram matrices across layers.

    AdaMM (arXiv 2509.15017), global style matching, in the paper's form: with maps A, B of two layers, flattened to
    C_A x N and C_B x N, M = A B^T / N, for every pair of layers. Constants of the published form are not known; the
    mean over entries and pairs is the lab's. A teacher that should not learn from it is detached by the caller.

    Args:
        student, teacher: maps [B, C, d, h, w] by name, of which those in :data:`STYLES` count, and where ``content``
            is missing the ``bottleneck``. A finer map is averaged to the grid of the coarsest.
        relative: in units of the mean square of the teacher's matrix, which gets no gradient. Entries grow with the
            fourth power of the features, so that without it a weight means something else in every network and step.
    """
    ours, theirs = (_styles(maps) for maps in (student, teacher))
    differences = []
    for a, b in list(combinations(range(len(ours)), 2)) or [(0, 0)]:
        wanted = _gram(theirs[a], theirs[b])
        difference = (_gram(ours[a], ours[b]) - wanted).square().mean()
        differences.append(difference / (wanted.detach().square().mean() + _LEAST) if relative else difference)
    return torch.stack(differences).mean()


def released_style_matching(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """What AdaMM's release computes in place of :func:`style_matching`, which it probably did not mean to.

    The maps are joined as channels, and of each channel apart the correlation of its planes along the first axis is
    compared: [d, h w] to d x d, divided by h w; squared differences are summed, divided by 4 d^2 C^2 and multiplied by
    100. No layer meets another. The release's loop runs over the batch, so that with several samples it correlates
    patients; here every sample is taken by itself.

    Args:
        student, teacher: as for :func:`style_matching`.
    """
    ours, theirs = (torch.cat(_styles(maps), dim=1) for maps in (student, teacher))
    channels, depth = ours.shape[1:3]

    def correlated(x: Tensor) -> Tensor:
        planes = x.flatten(3)  # [B, C, d, h w]
        return planes @ planes.transpose(2, 3) / planes.shape[3]

    squares = (correlated(ours) - correlated(theirs)).square().sum(dim=(1, 2, 3))
    return 100 * (squares / (4 * depth**2 * channels**2)).mean()


def content_distillation(student: Tensor, teacher: Tensor, relative: bool = False) -> Tensor:
    """Mean squared difference of two maps of one shape (AdaMM's content term).

    Args:
        student, teacher: [B, C, d, h, w].
        relative: in units of the teacher's variance, which gets no gradient.
    """
    difference = (student.float() - teacher.float()).square().mean()
    return difference / (teacher.detach().float().var() + _LEAST) if relative else difference


def _styles(maps: Mapping[str, Tensor]) -> list[Tensor]:
    names = [n for n in STYLES if n in maps]
    found = [maps[n].float() for n in (names if "content" in maps else [*names, "bottleneck"])]
    d, h, w = found[-1].shape[2:]
    return [z if z.shape[2:] == (d, h, w) else functional.adaptive_avg_pool3d(z, (d, h, w)) for z in found]


def _gram(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(2), b.flatten(2)
    return torch.bmm(a, b.transpose(1, 2)) / a.shape[2]


class Critic(nn.Module):
    """Tells a student's bottleneck from its teacher's (AdaMM's discriminator): one logit a sample, high for a student.

    Three convolutions of stride two (kernel 4, LeakyReLU 0.2; C to C/2, C, 2 C) and one to a logit. The release ends
    with a kernel of (2, 3, 2), which fits its one crop only; a mean over voxels fits all.

    Args:
        channels: C of the map.
    """

    def __init__(self, channels: int):
        super().__init__()
        widths = [channels, max(1, channels // 2), channels, 2 * channels]
        self.stages = nn.ModuleList(nn.Conv3d(a, b, 4, stride=2) for a, b in pairwise(widths))
        self.tell = nn.Conv3d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, d, h, w] to [B]."""
        for stage in self.stages:
            # One voxel before, one behind and one more where the edge is odd: n to ceil(n / 2), never to nothing.
            pads = [pad for n in reversed(x.shape[2:]) for pad in (1, 1 + n % 2)]
            x = functional.leaky_relu(stage(functional.pad(x, pads)), 0.2)
        return self.tell(x).mean(dim=(1, 2, 3, 4))

    def losses(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What the student is to lower, and what the critic itself is: binary cross-entropies.

        -log(1 - D(student)), without gradient for the critic; and -log(1 - D(teacher)) - log D(student), without
        gradient for the maps; means over samples. D is the probability of a student.

        Args:
            student, teacher: maps [B, C, d, h, w].
        """
        fixed = {name: p.detach() for name, p in self.named_parameters()}
        fooled = functional.softplus(functional_call(self, fixed, (student,)).float()).mean()
        known = functional.softplus(self(teacher.detach()).float()).mean()
        found = functional.softplus(-self(student.detach()).float()).mean()
        return fooled, known + found


def frozen(module: nn.Module) -> None:
    """Put the module into eval mode and stop its gradients."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.eval()
