"""The published nets written plainly as PyTorch modules under their published names, to compare with (needs torch)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn


class Basic(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if stride > 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        if stride > 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return torch.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    def __init__(self, block: Callable[[int, int, int], nn.Module], expansion: int, counts: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, count in enumerate(counts):
            blocks = []
            for index in range(count):
                blocks.append(block(inputs, 64 * 2**stage, 2 if stage > 0 and index == 0 else 1))
                inputs = 64 * 2**stage * expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x: Any) -> Any:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Vgg(nn.Module):
    def __init__(self, layout: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for item in layout.split():
            if item == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(inputs, int(item), 3, padding=1), nn.ReLU()]
                inputs = int(item)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 49, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 1000),
        )

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(x), 7), 1))


class Fire(nn.Module):
    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        pool = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2),
            nn.ReLU(),
            pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Any) -> Any:
        return torch.flatten(self.classifier(self.features(x)), 1)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int, act: Any, eps: float = 1e-5) -> Any:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=eps),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class InvertedV2(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, ratio: int) -> None:
        super().__init__()
        hidden, layers = inputs * ratio, []
        if ratio != 1:
            layers.append(conv_norm(inputs, hidden, 1, 1, 1, nn.ReLU6))
        layers.append(conv_norm(hidden, hidden, 3, stride, hidden, nn.ReLU6))
        self.conv = nn.Sequential(*layers, nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers, inputs = [conv_norm(3, 32, 3, 2, 1, nn.ReLU6)], 32
        for ratio, outputs, count, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for index in range(count):
                layers.append(InvertedV2(inputs, outputs, stride if index == 0 else 1, ratio))
                inputs = outputs
        self.features = nn.Sequential(*layers, conv_norm(320, 1280, 1, 1, 1, nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))


class Excitation(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Any) -> Any:
        scale = self.fc2(torch.relu(self.fc1(nn.functional.adaptive_avg_pool2d(x, 1))))
        return x * nn.functional.hardsigmoid(scale)


SQUEEZED = {16: 8, 72: 24, 96: 24, 120: 32, 144: 40, 240: 64, 288: 72, 480: 120, 576: 144, 672: 168, 960: 240}
ACTIVATIONS = {"R": nn.ReLU, "H": nn.Hardswish}


class InvertedV3(nn.Module):
    def __init__(self, inputs: int, kernel: int, hidden: int, outputs: int, se: bool, act: str, stride: int) -> None:
        super().__init__()
        conv = partial(conv_norm, eps=1e-3)
        layers = [] if hidden == inputs else [conv(inputs, hidden, 1, 1, 1, ACTIVATIONS[act])]
        layers.append(conv(hidden, hidden, kernel, stride, hidden, ACTIVATIONS[act]))
        if se:
            layers.append(Excitation(hidden, SQUEEZED[hidden]))
        self.block = nn.Sequential(*layers, conv(hidden, outputs, 1, 1, 1, None))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        return x + self.block(x) if self.adds else self.block(x)


# Published tables: inputs, kernel, hidden, outputs, excitation, activation, stride.
V3_SMALL = """16 3 16 16 1 R 2/16 3 72 24 0 R 2/24 3 88 24 0 R 1/24 5 96 40 1 H 2/40 5 240 40 1 H 1/40 5 240 40 1 H 1
/40 5 120 48 1 H 1/48 5 144 48 1 H 1/48 5 288 96 1 H 2/96 5 576 96 1 H 1/96 5 576 96 1 H 1"""
V3_LARGE = """16 3 16 16 0 R 1/16 3 64 24 0 R 2/24 3 72 24 0 R 1/24 5 72 40 1 R 2/40 5 120 40 1 R 1/40 5 120 40 1 R 1
/40 3 240 80 0 H 2/80 3 200 80 0 H 1/80 3 184 80 0 H 1/80 3 184 80 0 H 1/80 3 480 112 1 H 1/112 3 672 112 1 H 1
/112 5 672 160 1 H 2/160 5 960 160 1 H 1/160 5 960 160 1 H 1"""
V3_SMALL_1D = V3_SMALL.replace("24 5 96 40 1 H 2", "24 5 96 40 0 H 2")
V3_LARGE_1D = V3_LARGE.replace("160 5 960 160 1 H 1", "160 5 960 160 1 H 2")


def rows(table: str) -> list[tuple[int, int, int, int, bool, str, int]]:
    found = []
    for row in table.split("/"):
        i, k, h, o, se, act, stride = row.split()
        found.append((int(i), int(k), int(h), int(o), se == "1", act, int(stride)))
    return found


class MobileNetV3(nn.Module):
    def __init__(self, table: str, last: int, hidden: int) -> None:
        super().__init__()
        conv = partial(conv_norm, eps=1e-3)
        blocks = [InvertedV3(*row) for row in rows(table)]
        end = conv(rows(table)[-1][3], last, 1, 1, 1, nn.Hardswish)
        self.features = nn.Sequential(conv(3, 16, 3, 2, 1, nn.Hardswish), *blocks, end)
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, 1000)
        )

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))


class ConvBlock1d(nn.Module):
    """S1's, with its spelling."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, act: str) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        self.bath = nn.BatchNorm1d(outputs)
        self.act = {"R": nn.ReLU6, "H": nn.Hardswish}[act]()

    def forward(self, x: Any) -> Any:
        x = self.conv(x)
        return self.act(self.bath(x) if x.shape[-1] > 1 else x)


class Attention1d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, channels)
        self.linear2 = nn.Linear(channels, channels)

    def forward(self, x: Any) -> Any:
        scale = nn.functional.hardsigmoid(self.linear2(torch.relu(self.linear1(x.mean(2)))))
        return x * scale[:, :, None]


class Bottleneck1d(nn.Module):
    def __init__(self, inputs: int, kernel: int, hidden: int, outputs: int, se: bool, act: str, stride: int) -> None:
        super().__init__()
        self.conv = ConvBlock1d(inputs, hidden, 1, 1, 1, act)
        self.conv1 = ConvBlock1d(hidden, hidden, kernel, stride, hidden, act)
        if se:
            self.attenton = Attention1d(hidden)
        self.conv2 = ConvBlock1d(hidden, outputs, 1, 1, 1, act)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        y = self.conv1(self.conv(x))
        y = self.conv2(self.attenton(y) if hasattr(self, "attenton") else y)
        return x + y if self.adds else y


class MobileNetV31d(nn.Module):
    def __init__(self, table: str, last: int, hidden: int, features: str, channels: int = 3, classes: int = 2) -> None:
        super().__init__()
        blocks = [Bottleneck1d(*row) for row in rows(table)]
        end = ConvBlock1d(rows(table)[-1][3], last, 1, 1, 1, "H")
        self.name = features
        self.add_module(features, nn.Sequential(ConvBlock1d(channels, 16, 3, 2, 1, "H"), *blocks, end))
        self.classifier = nn.Sequential(
            ConvBlock1d(last, hidden, 1, 1, 1, "H"), ConvBlock1d(hidden, classes, 1, 1, 1, "H")
        )

    def forward(self, x: Any) -> Any:
        return self.classifier(getattr(self, self.name)(x).mean(2, keepdim=True)).flatten(1)


VGG11 = "64 M 128 M 256 256 M 512 512 M 512 512 M"
VGG16 = "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"

NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: ResNet(Basic, 1, (2, 2, 2, 2)),
    "resnet34": lambda: ResNet(Basic, 1, (3, 4, 6, 3)),
    "resnet50": lambda: ResNet(Bottleneck, 4, (3, 4, 6, 3)),
    "resnet101": lambda: ResNet(Bottleneck, 4, (3, 4, 23, 3)),
    "vgg11": lambda: Vgg(VGG11),
    "vgg16": lambda: Vgg(VGG16),
    "squeezenet1_1": SqueezeNet,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_small": lambda: MobileNetV3(V3_SMALL, 576, 1024),
    "mobilenet_v3_large": lambda: MobileNetV3(V3_LARGE, 960, 1280),
    "mobilenet_v3_1d_small": lambda: MobileNetV31d(V3_SMALL_1D, 576, 1024, "fearures"),
    "mobilenet_v3_1d_large": lambda: MobileNetV31d(V3_LARGE_1D, 960, 1280, "features"),
}


def seeded(net: nn.Module) -> nn.Module:
    """Scaled so that activations neither vanish nor explode over a hundred layers, norms as after training."""
    generator = torch.Generator().manual_seed(9)
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            gain = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * gain
            if module.bias is not None:
                module.bias.data = torch.rand(module.bias.shape, generator=generator) * 0.2 - 0.1
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data = torch.rand(module.weight.shape, generator=generator) * 0.5 + 0.5
            module.bias.data = torch.rand(module.bias.shape, generator=generator) * 0.2 - 0.1
            module.running_mean = torch.rand(module.bias.shape, generator=generator) * 0.2 - 0.1
            module.running_var = torch.rand(module.bias.shape, generator=generator) + 0.5
    return net.eval()
