"""A network whose answer is known, for tests of what is around a network."""

import torch

from mtg_lab.backbones import ModalityBackbone, Prediction

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


class Threshold(ModalityBackbone):
    """A network whose answer is known: class 3 where the mean of what is there exceeds a z-score of one."""

    modalities = MODALITIES

    def __init__(self):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.ones(()))
        self.encodings = 0

    def encode(self, images, present):
        self.encodings += 1
        return [images[:, :, None]]

    def decode(self, latents, present):
        there = (
            torch.where(present[..., None, None, None], latents[0][:, :, 0], 0).sum(1)
            / present.sum(1)[:, None, None, None]
        )
        score = 10 * (there - self.threshold)
        return Prediction(torch.stack([-score, 0 * score - 99, 0 * score - 99, score], dim=1), latents[0][:, 0])
