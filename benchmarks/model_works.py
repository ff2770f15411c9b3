"""Counts the work of well-known models from their architectures, and writes `models.csv` beside this file.

Every operator reads its inputs and writes its output once, 4 bytes an element, and is one kernel: what
eager PyTorch does. A multiply-add is two operations. Published counts agree: ResNet-50 4.1 GMAC and 25.6
M parameters, VGG-19 19.6 and 143.7, DenseNet-121 2.9 and 8.0, MobileNetV2 0.3 and 3.5 (torchvision's
model pages), BERT-large 335 M (arXiv 1810.04805). Run it with `python -m benchmarks.model_works`.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

MODELS = Path(__file__).with_name("models.csv")


@dataclass
class Net:
    """A network under construction: the shape that flows through it, and what it has cost so far."""

    channels: int = 3
    height: int = 224
    width: int = 224
    flops: float = 0.0
    elements: float = 0.0
    weights: float = 0.0
    kernels: int = 0
    live: float = 0.0

    @property
    def size(self) -> int:
        """Elements of what flows here."""
        return self.channels * self.height * self.width

    def op(self, *, read: float, written: float, flops: float = 0.0, weights: float = 0.0) -> None:
        """Count one operator: elements, operations and weights."""
        self.flops += flops
        self.elements += read + written
        self.weights += weights
        self.kernels += 1
        self.live = max(self.live, read + written)

    def pointwise(self, count: int = 1) -> None:
        """Count operators that read and write every element."""
        for _ in range(count):
            self.op(read=self.size, written=self.size)

    def conv(
        self,
        out: int,
        k: int | tuple[int, int],
        stride: int = 1,
        *,
        groups: int = 1,
        pad: bool = True,
        bias: bool = False,
    ) -> None:
        """Count a convolution; `pad` keeps height and width but for the stride."""
        read = self.size
        kh, kw = (k, k) if isinstance(k, int) else k
        self.height = -(-(self.height if pad else self.height - kh + 1) // stride)
        self.width = -(-(self.width if pad else self.width - kw + 1) // stride)
        weights = kh * kw * self.channels // groups * out
        self.channels = out
        self.op(
            read=read,
            written=self.size,
            flops=2.0 * weights * self.height * self.width,
            weights=weights + (out if bias else 0),
        )

    def norm(self) -> None:
        """Count a batch normalisation."""
        self.op(read=self.size, written=self.size, weights=2 * self.channels)

    def conv_norm_relu(
        self, out: int, k: int | tuple[int, int], stride: int = 1, *, groups: int = 1, pad: bool = True
    ) -> None:
        """Count a convolution with its normalisation and activation."""
        self.conv(out, k, stride, groups=groups, pad=pad)
        self.norm()
        self.pointwise()

    def pool(self, stride: int = 2, *, pad: bool = True) -> None:
        """Count a 3 x 3 pooling."""
        read = self.size
        self.height = -(-(self.height if pad else self.height - 2) // stride)
        self.width = -(-(self.width if pad else self.width - 2) // stride)
        self.op(read=read, written=self.size)

    def head(self, *widths: int) -> None:
        """Linear layers on what is there (pooled before, if the network pools)."""
        inputs = self.size
        for out in widths:
            self.op(read=inputs, written=out, flops=2.0 * inputs * out, weights=inputs * out + out)
            inputs = out

    def global_pool(self) -> None:
        """Count the pooling that leaves one element a channel."""
        read = self.size
        self.height = self.width = 1
        self.op(read=read, written=self.size)


def resnet(blocks: tuple[int, ...]) -> Net:
    """After arXiv 1512.03385, table 1, bottleneck blocks."""
    net = Net()
    net.conv_norm_relu(64, 7, 2)
    net.pool()
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            inputs = (net.channels, net.height, net.width)
            net.conv_norm_relu(width, 1)
            net.conv_norm_relu(width, 3, stride)
            net.conv(4 * width, 1)
            net.norm()
            if not block:
                outputs = (net.channels, net.height, net.width)
                net.channels, net.height, net.width = inputs
                net.conv(4 * width, 1, stride)
                net.norm()
                net.channels, net.height, net.width = outputs
            net.op(read=2 * net.size, written=net.size)
            net.pointwise()
    net.global_pool()
    net.head(1000)
    return net


def vgg(convs: tuple[int, ...]) -> Net:
    """After arXiv 1409.1556, table 1, configurations D and E."""
    net = Net()
    for stage, count in enumerate(convs):
        for _ in range(count):
            net.conv(min(64 * 2**stage, 512), 3, bias=True)
            net.pointwise()
        net.pool()
    net.head(4096, 4096, 1000)
    return net


def densenet(blocks: tuple[int, ...], growth: int = 32) -> Net:
    """After arXiv 1608.06993, table 1: a layer joins all before it, and adds `growth` channels."""
    net = Net()
    net.conv_norm_relu(64, 7, 2)
    net.pool()
    for stage, count in enumerate(blocks):
        for _ in range(count):
            inputs = net.channels
            net.pointwise()  # joining copies everything
            net.norm()
            net.pointwise()
            net.conv(4 * growth, 1)
            net.norm()
            net.pointwise()
            net.conv(growth, 3)
            net.channels = inputs + growth
        net.norm()
        net.pointwise()
        if stage < len(blocks) - 1:
            net.conv(net.channels // 2, 1)
            net.pool()
    net.global_pool()
    net.head(1000)
    return net


def mobilenet_v2() -> Net:
    """After arXiv 1801.04381, table 2: (expansion, channels, repeats, stride)."""
    net = Net()
    net.conv_norm_relu(32, 3, 2)
    table: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
    )
    table += ((6, 160, 3, 2), (6, 320, 1, 1))
    for expand, out, repeats, first in table:
        for repeat in range(repeats):
            stride = 1 if repeat else first
            hidden = net.channels * expand
            same = stride == 1 and net.channels == out
            if expand > 1:
                net.conv_norm_relu(hidden, 1)
            net.conv_norm_relu(hidden, 3, stride, groups=hidden)
            net.conv(out, 1)
            net.norm()
            if same:
                net.op(read=2 * net.size, written=net.size)
    net.conv_norm_relu(1280, 1)
    net.global_pool()
    net.head(1000)
    return net


Branch = tuple[tuple[int, "int | tuple[int, int]", int], ...]


def _inception_block(net: Net, branches: tuple[Branch, ...], *, pool: int | None, stride: int = 1) -> None:
    start = (net.channels, net.height, net.width)
    joined = 0
    for branch in branches:
        net.channels, net.height, net.width = start
        for out, k, step in branch:
            net.conv_norm_relu(out, k, step, pad=step == 1)
        joined += net.channels
    net.channels, net.height, net.width = start
    net.pool(stride, pad=stride == 1)
    if pool:
        net.conv_norm_relu(pool, 1)
    net.channels += joined
    net.pointwise()  # joining copies everything


def inception_v3() -> Net:
    """After arXiv 1512.00567, as torchvision builds it, on images of 224 x 224."""
    net = Net()
    net.conv_norm_relu(32, 3, 2, pad=False)
    net.conv_norm_relu(32, 3, pad=False)
    net.conv_norm_relu(64, 3)
    net.pool(pad=False)
    net.conv_norm_relu(80, 1)
    net.conv_norm_relu(192, 3, pad=False)
    net.pool(pad=False)
    for pool in (32, 64, 64):
        _inception_block(
            net, (((64, 1, 1),), ((48, 1, 1), (64, 5, 1)), ((64, 1, 1), (96, 3, 1), (96, 3, 1))), pool=pool
        )
    _inception_block(net, (((384, 3, 2),), ((64, 1, 1), (96, 3, 1), (96, 3, 2))), pool=None, stride=2)
    for c in (128, 160, 160, 192):
        seven = ((c, (7, 1), 1), (c, (1, 7), 1), (c, (7, 1), 1), (192, (1, 7), 1))
        _inception_block(
            net,
            (((192, 1, 1),), ((c, 1, 1), (c, (1, 7), 1), (192, (7, 1), 1)), ((c, 1, 1), *seven)),
            pool=192,
        )
    last = ((192, 1, 1), (192, (1, 7), 1), (192, (7, 1), 1), (192, 3, 2))
    _inception_block(net, (((192, 1, 1), (320, 3, 2)), last), pool=None, stride=2)
    for _ in range(2):
        # Each of two branches forks into 1 x 3 and 3 x 1: counted as branches of their own, the stems once.
        forks: tuple[Branch, ...] = (
            ((320, 1, 1),),
            ((384, 1, 1), (384, (1, 3), 1)),
            ((448, 1, 1), (384, 3, 1), (384, (1, 3), 1)),
        )
        _inception_block(net, forks, pool=192)
        for _ in range(2):
            shape = net.channels
            net.channels = 384
            net.conv_norm_relu(384, (3, 1))
            net.channels = shape + 384
    net.global_pool()
    net.head(1000)
    return net


def transformer(
    layers: int,
    width: int,
    *,
    vocabulary: int,
    tokens: int = 128,
    shared: bool = False,
    embedding: int = 0,
    lm: bool = False,
) -> Net:
    """After arXiv 1810.04805: an encoder with heads of 64 and a hidden layer of four times its width.

    `shared`: all layers have the same weights (ALBERT, arXiv 1909.11942). `embedding`: width of the
    token embedding where it differs. `lm`: ends with a linear layer onto the vocabulary (GPT-2).
    """
    net = Net(channels=width, height=tokens, width=1)
    heads = width // 64
    hidden, scores = net.size, heads * tokens * tokens
    net.weights = vocabulary * (embedding or width) + 512 * width
    net.op(read=hidden, written=hidden)
    for layer in range(layers):
        weights = 0 if shared and layer else width * width
        for _ in range(4):  # query, key, value and output
            net.op(read=hidden, written=hidden, flops=2.0 * hidden * width, weights=weights)
        net.pointwise(4)  # heads are split and joined by copies
        net.op(read=2 * hidden, written=scores, flops=2.0 * scores * 64)
        for _ in range(3):  # scale, mask, softmax
            net.op(read=scores, written=scores)
        net.op(read=scores + hidden, written=hidden, flops=2.0 * scores * 64)
        net.op(read=hidden, written=4 * hidden, flops=8.0 * hidden * width, weights=4 * weights)
        net.op(read=4 * hidden, written=4 * hidden)
        net.op(read=4 * hidden, written=hidden, flops=8.0 * hidden * width, weights=4 * weights)
        for _ in range(2):  # residual and norm
            net.op(read=2 * hidden, written=hidden)
            net.pointwise()
    if lm:
        net.op(read=hidden, written=tokens * vocabulary, flops=2.0 * hidden * vocabulary)
    return net


NETS = {
    "resnet50": (resnet((3, 4, 6, 3)), "arXiv:1512.03385"),
    "resnet101": (resnet((3, 4, 23, 3)), "arXiv:1512.03385"),
    "resnet152": (resnet((3, 8, 36, 3)), "arXiv:1512.03385"),
    "vgg16": (vgg((2, 2, 3, 3, 3)), "arXiv:1409.1556"),
    "vgg19": (vgg((2, 2, 4, 4, 4)), "arXiv:1409.1556"),
    "densenet121": (densenet((6, 12, 24, 16)), "arXiv:1608.06993"),
    "densenet169": (densenet((6, 12, 32, 32)), "arXiv:1608.06993"),
    "densenet201": (densenet((6, 12, 48, 32)), "arXiv:1608.06993"),
    "mobilenetv2": (mobilenet_v2(), "arXiv:1801.04381"),
    "inceptionv3": (inception_v3(), "arXiv:1512.00567 at 224 x 224"),
    "bert-base": (transformer(12, 768, vocabulary=30522), "arXiv:1810.04805 at 128 tokens"),
    "bert-large": (transformer(24, 1024, vocabulary=30522), "arXiv:1810.04805 at 128 tokens"),
    "roberta-large": (transformer(24, 1024, vocabulary=50265), "arXiv:1907.11692 at 128 tokens"),
    "albert-large": (
        transformer(24, 1024, vocabulary=30000, shared=True, embedding=128),
        "arXiv:1909.11942 at 128 tokens",
    ),
    "gpt2": (transformer(12, 768, vocabulary=50257, lm=True), "GPT-2 small at 128 tokens"),
}


def main() -> None:
    with MODELS.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("model", "gflop", "mbytes", "weights_mb", "precision", "kernels", "live_mb", "source"))
        for name, (net, source) in NETS.items():
            row = (round(net.flops / 1e9, 3), round(net.elements * 4e-6, 1), round(net.weights * 4e-6, 1))
            out.writerow((name, *row, "tf32", net.kernels, round(net.live * 4e-6, 1), source))


if __name__ == "__main__":
    main()
