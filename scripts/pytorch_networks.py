"""MobileNetV2 and ResNets in PyTorch, with torchvision's parameter names, as CoPriv computes them.

For the scripts that compare CoPriv with PyTorch. The forms for small images have fewer strides at the start.
"""

import torch
from torch import nn

INVERTED_RESIDUALS = [  # expansion, channels, blocks, stride
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
]


def rounded(channels):
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def conv_norm(inputs, outputs, kernel, stride, groups, activation):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation())


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, expansion, stride, activation):
        super().__init__()
        hidden = inputs * expansion
        parts = [] if expansion == 1 else [conv_norm(inputs, hidden, 1, 1, 1, activation)]
        parts += [
            conv_norm(hidden, hidden, 3, stride, hidden, activation),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*parts)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, width, classes, small, activation):
        super().__init__()
        channels = rounded(32 * width)
        features = [conv_norm(3, channels, 3, 1 if small else 2, 1, activation)]
        for stage, (expansion, outputs, blocks, first_stride) in enumerate(INVERTED_RESIDUALS):
            for block in range(blocks):
                stride = first_stride if block == 0 and not (small and stage == 1) else 1
                outputs_here = rounded(outputs * width)
                features.append(InvertedResidual(channels, outputs_here, expansion, stride, activation))
                channels = outputs_here
        last = rounded(1280 * max(1.0, width))
        features.append(conv_norm(channels, last, 1, 1, 1, activation))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, inputs, channels, stride, bottleneck, activation):
        super().__init__()
        outputs = 4 * channels if bottleneck else channels
        if bottleneck:
            shapes = [(inputs, channels, 1, 1), (channels, channels, 3, stride), (channels, outputs, 1, 1)]
        else:
            shapes = [(inputs, channels, 3, stride), (channels, channels, 3, 1)]
        for number, (before, after, kernel, step) in enumerate(shapes, 1):
            setattr(self, f"conv{number}", nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(after))
        self.count, self.act = len(shapes), activation()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = self.act(y) if number < self.count else y
        return self.act(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    SIZES = {
        "resnet18": ([64, 128, 256, 512], [2, 2, 2, 2], False),
        "resnet20": ([16, 32, 64], [3, 3, 3], False),
        "resnet32": ([16, 32, 64], [5, 5, 5], False),
        "resnet50": ([64, 128, 256, 512], [3, 4, 6, 3], True),
    }

    def __init__(self, name, width, classes, small, activation):
        super().__init__()
        sizes, blocks, bottleneck = self.SIZES[name]
        sizes = [size if width == 1.0 else rounded(size * width) for size in sizes]
        channels = sizes[0]
        self.conv1 = nn.Conv2d(3, channels, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1, self.act = nn.BatchNorm2d(channels), activation()
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.stages = len(sizes)
        for stage, (size, count) in enumerate(zip(sizes, blocks)):
            layer = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layer.append(Residual(channels, size, stride, bottleneck, activation))
                channels = 4 * size if bottleneck else size
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.pool(self.act(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def network(name, width=1.0, classes=1000, resolution=224, activation="relu"):
    """The network in evaluation mode, its weights yet to be loaded."""
    act = {"relu": nn.ReLU, "relu6": nn.ReLU6}[activation]
    small = resolution < 96
    made = MobileNetV2(width, classes, small, act) if name == "mobilenet_v2" else ResNet(name, width, classes, small, act)
    return made.eval()


def logits(model, images, batch=20):
    """Logits of all images, batch by batch."""
    with torch.no_grad():
        return torch.cat([model(images[at : at + batch]) for at in range(0, len(images), batch)])


__all__ = ["network", "logits"]
