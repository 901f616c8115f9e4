"""The voxels of each class are those that MONAI lists, and crops are the very crops that MONAI's own lists give."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.transforms import Compose, RandCropByLabelClassesd
from monai.transforms.utils import map_classes_to_indices

from mtg_lab.class_voxels import FindClasses, class_voxels
from mtg_lab.data import Sampling, crop_transform

LABELS = arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(0, 3))


@given(LABELS)
def test_voxels_of_each_class_are_those_of_monai(label):
    expected = map_classes_to_indices(torch.from_numpy(label[None]).long(), num_classes=4)
    found = class_voxels(label, 4)
    assert [len(f) for f in found] == [len(e) for e in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert [int(ours[n]) for n in range(len(ours))] == theirs.tolist()


def test_background_ends_where_it_ends():
    (background, *_) = class_voxels(np.array([[[0, 2, 0, 3]]]), 4)
    assert list(background) == [0, 2]
    assert list(class_voxels(np.ones((1, 1, 2), np.uint8), 2)[0]) == []


@settings(max_examples=25)
@given(LABELS, st.integers(0, 10**6), st.sampled_from([2, 4, 9]))
def test_crops_are_those_of_monai_s_own_search_bit_for_bit(label, seed, edge):
    ours = crop_transform(Sampling(edge), 4)
    steps = [step for step in ours.transforms if not isinstance(step, FindClasses)]
    place = next(i for i, step in enumerate(steps) if isinstance(step, RandCropByLabelClassesd))
    ratios = steps[place].cropper.ratios
    steps[place] = RandCropByLabelClassesd(
        ("image", "label"), "label", (edge,) * 3, ratios=ratios, num_classes=4, warn=False
    )
    image = torch.randn(2, *label.shape, generator=torch.Generator().manual_seed(seed))
    results = []
    for chain in (ours, Compose(steps)):
        chain.set_random_state(seed=seed)
        (sample,) = chain({"image": image, "label": torch.from_numpy(label[None]).long()})
        results.append(sample)
    assert results[0].keys() == results[1].keys()
    assert all(results[0][k].equal(results[1][k]) for k in ("image", "label"))
