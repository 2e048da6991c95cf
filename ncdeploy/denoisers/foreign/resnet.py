"""Pictures to features as robot policies see them: a ResNet (He et al. 2016, arXiv 1512.03385) of basic blocks, and
the expected position of each of its maps (Finn et al. 2016, arXiv 1509.06113). Layers have the names of torchvision's
and LeRobot's, so their weights fit."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from ncdeploy.errors import InputError

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # per stage
WIDTHS = (64, 128, 256, 512)
GROUP = 16  # channels of a group
SHRINK = 32  # of height and width


class KeypointEncoder(nn.Module):
    """Pictures [N, 3, height, width] -> [N, 2 * keypoints].

    size:        (height, width) of the pictures
    resize, crop: to what they are resized first, and which part of the middle is then taken; None = all of it
    grouped:     group norms; otherwise batch norms, with the statistics of the training

    Raises InputError for a backbone that is not known, and for a crop larger than the picture.
    """

    def __init__(
        self, size: tuple[int, int], *, backbone: str, keypoints: int, grouped: bool,
        resize: tuple[int, int] | None = None, crop: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if backbone not in BLOCKS:
            raise InputError(f"vision_backbone: got {backbone!r}, expected {' or '.join(BLOCKS)}; others are not read")
        self.resize, size = resize, resize or size
        if crop is not None and (crop[0] > size[0] or crop[1] > size[1]):
            raise InputError(f"crop: {crop[0]} x {crop[1]} do not fit into pictures of {size[0]} x {size[1]}")
        self.crop = None if crop is None else (*(round((n - c) / 2) for n, c in zip(size, crop, strict=True)), *crop)
        height, width = (-(-n // SHRINK) for n in crop or size)
        self.backbone = trunk(BLOCKS[backbone], grouped)
        self.pool = Positions(height, width, keypoints)
        self.out = nn.Linear(2 * keypoints, 2 * keypoints)

    def forward(self, x: Tensor) -> Tensor:
        if self.resize is not None:
            x = interpolate(x, self.resize, mode="bilinear", antialias=True)
        if self.crop is not None:
            top, left, height, width = self.crop
            x = x[:, :, top : top + height, left : left + width]
        features: Tensor = relu(self.out(self.pool(self.backbone(x)).flatten(1)))
        return features


class Positions(nn.Module):
    """Maps [N, 512, height, width] -> [N, keypoints, 2], where in -1 .. 1 each of their mixtures is."""

    pos_grid: Tensor

    def __init__(self, height: int, width: int, keypoints: int) -> None:
        super().__init__()
        self.nets = nn.Conv2d(WIDTHS[-1], keypoints, 1)
        across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
        self.register_buffer("pos_grid", torch.tensor(np.stack([across.ravel(), down.ravel()], 1), dtype=torch.float32))

    def forward(self, maps: Tensor) -> Tensor:
        positions: Tensor = self.nets(maps).flatten(2).softmax(2) @ self.pos_grid
        return positions


class BasicBlock(nn.Module):
    """[N, before, H, W] -> [N, after, H / stride, W / stride]."""

    def __init__(self, before: int, after: int, stride: int, grouped: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), norm(after, grouped)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), norm(after, grouped)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), norm(after, grouped))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(inner + self.downsample(x))


def trunk(blocks: tuple[int, ...], grouped: bool) -> nn.Sequential:
    """Pictures [N, 3, H, W] -> [N, 512, H / 32, W / 32], sides rounded up."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False), norm(WIDTHS[0], grouped), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    before = WIDTHS[0]
    for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
        stride = 2 if stage else 1
        first = BasicBlock(before, width, stride, grouped)
        layers.append(nn.Sequential(first, *(BasicBlock(width, width, 1, grouped) for _ in range(count - 1))))
        before = width
    return nn.Sequential(*layers)


def norm(width: int, grouped: bool) -> nn.Module:
    return nn.GroupNorm(width // GROUP, width) if grouped else nn.BatchNorm2d(width)
