"""Public architectures as ONNX graphs with random weights, built as exporters write them: batch norms folded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Net:
    """A growing graph; operators return the name of their output."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._random = np.random.default_rng(0)

    def input(self, name: str, *dims: int | str, kind: int = TensorProto.FLOAT) -> str:
        """Declare an input."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def op(self, kind: str, *reads: str, outputs: int = 1, **attributes: Any) -> str:  # noqa: ANN401 -- make_node's own
        """Add an operator."""
        name = f"{kind.lower()}{len(self._nodes)}"
        writes = [name, *(f"{name}_{i}" for i in range(1, outputs))]
        self._nodes.append(helper.make_node(kind, list(reads), writes, **attributes))
        return name

    def weight(self, *dims: int) -> str:
        """Add a weight of random values."""
        return self.value((0.02 * self._random.standard_normal(dims)).astype("float32"))

    def value(self, array: object) -> str:
        """Add a constant."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def conv(self, x: str, cin: int, cout: int, k: int = 1, s: int = 1, *, groups: int = 1) -> str:
        """Add a convolution with a bias that keeps the size at stride 1."""
        p = k // 2
        weights = self.weight(cout, cin // groups, k, k), self.weight(cout)
        return self.op("Conv", x, *weights, kernel_shape=[k, k], strides=[s, s], pads=[p] * 4, group=groups)

    def relu(self, x: str) -> str:
        """Add a ReLU."""
        return self.op("Relu", x)

    def pool(self, kind: str, x: str, k: int, s: int, p: int = 0) -> str:
        """Add a pooling operator."""
        return self.op(kind, x, kernel_shape=[k, k], strides=[s, s], pads=[p] * 4)

    def dense(self, x: str, cin: int, cout: int) -> str:
        """Add a product with a weight, and a bias."""
        return self.op("Add", self.op("MatMul", x, self.weight(cin, cout)), self.weight(cout))

    def head(self, x: str, channels: int) -> str:
        """Add what classifies into 1000 classes."""
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op("Gemm", flat, self.weight(channels, 1000), self.weight(1000))

    def swish(self, x: str) -> str:
        """Add x times its sigmoid, as exporters write it."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def norm(self, x: str, width: int) -> str:
        """Add a layer norm."""
        return self.op("LayerNormalization", x, self.weight(width), self.weight(width), axis=-1)

    def gelu(self, x: str) -> str:
        """Add a GELU by its formula, as exporters write it."""
        erf = self.op("Erf", self.op("Div", x, self.value(np.float32(2**0.5))))
        both = self.op("Mul", x, self.op("Add", erf, self.value(np.float32(1.0))))
        return self.op("Mul", both, self.value(np.float32(0.5)))

    def attention(self, x: str, width: int, tokens: int, mask: str | None = None) -> str:
        """Add multi-head attention with heads of 64."""
        heads, each = width // 64, 64

        def split(perm: list[int]) -> str:
            flat = self.dense(x, width, width)
            wide = self.op("Reshape", flat, self.value(np.array([0, tokens, heads, each], "int64")))
            return self.op("Transpose", wide, perm=perm)

        query, key, value = split([0, 2, 1, 3]), split([0, 2, 3, 1]), split([0, 2, 1, 3])
        score = self.op("Div", self.op("MatMul", query, key), self.value(np.float32(8.0)))
        score = score if mask is None else self.op("Add", score, mask)
        mixed = self.op("MatMul", self.op("Softmax", score, axis=-1), value)
        back = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = self.op("Reshape", back, self.value(np.array([0, tokens, width], "int64")))
        return self.dense(joined, width, width)

    def block(self, x: str, width: int, tokens: int, *, before: bool, mask: str | None = None) -> str:
        """One transformer layer, its norms before (GPT-2, ViT) or after (BERT) each half."""
        y = self.attention(self.norm(x, width) if before else x, width, tokens, mask)
        x = self.op("Add", x, y)
        x = x if before else self.norm(x, width)
        inner = self.dense(self.norm(x, width) if before else x, width, 4 * width)
        x = self.op("Add", x, self.dense(self.gelu(inner), 4 * width, width))
        return x if before else self.norm(x, width)

    def save(self, path: Path, output: str, *dims: int | str) -> Path:
        """Write the model, with one output."""
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, dims)]
        graph = helper.make_graph(self._nodes, path.stem, self._inputs, outputs, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(path))
        return path


def _image(size: int = 224) -> tuple[Net, str]:
    net = Net()
    return net, net.input("image", "batch", 3, size, size)


def resnet(path: Path, depths: tuple[int, ...], *, bottleneck: bool) -> Path:
    net, x = _image()
    x = net.pool("MaxPool", net.relu(net.conv(x, 3, 64, 7, 2)), 3, 2, 1)
    cin = 64
    for stage, depth in enumerate(depths):
        mid = 64 << stage
        out = 4 * mid if bottleneck else mid
        for layer in range(depth):
            s = 2 if stage and not layer else 1
            if bottleneck:
                y = net.relu(net.conv(net.relu(net.conv(x, cin, mid)), mid, mid, 3, s))
                y = net.conv(y, mid, out)
            else:
                y = net.conv(net.relu(net.conv(x, cin, mid, 3, s)), mid, mid, 3)
            skip = net.conv(x, cin, out, 1, s) if s > 1 or cin != out else x
            x, cin = net.relu(net.op("Add", y, skip)), out
    return net.save(path, net.head(x, cin), "batch", 1000)


def vgg11(path: Path) -> Path:
    net, x = _image()
    cin = 3
    for cout in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if cout:
            x, cin = net.relu(net.conv(x, cin, cout, 3)), cout
        else:
            x = net.pool("MaxPool", x, 2, 2)
    x = net.op("Flatten", x)
    for cin, cout in ((25088, 4096), (4096, 4096), (4096, 1000)):
        x = net.op("Gemm", x, net.weight(cin, cout), net.weight(cout))
        x = x if cout == 1000 else net.relu(x)
    return net.save(path, x, "batch", 1000)


def _clip(net: Net, x: str) -> str:
    return net.op("Clip", x, net.value(np.float32(0)), net.value(np.float32(6)))


def mobilenet_v2(path: Path) -> Path:
    net, x = _image()
    x, cin = _clip(net, net.conv(x, 3, 32, 3, 2)), 32
    for t, c, n, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                            (6, 320, 1, 1)):  # fmt: skip
        for layer in range(n):
            s = 1 if layer else stride
            y = _clip(net, net.conv(x, cin, t * cin)) if t > 1 else x
            y = net.conv(_clip(net, net.conv(y, t * cin, t * cin, 3, s, groups=t * cin)), t * cin, c)
            x, cin = (net.op("Add", x, y) if s == 1 and cin == c else y), c
    return net.save(path, net.head(_clip(net, net.conv(x, 320, 1280)), 1280), "batch", 1000)


def densenet121(path: Path) -> Path:
    net, x = _image()
    x, cin = net.pool("MaxPool", net.relu(net.conv(x, 3, 64, 7, 2)), 3, 2, 1), 64

    def normed(x: str, channels: int) -> str:
        ones = [net.value(np.ones(channels, "float32")) for _ in range(4)]
        return net.relu(net.op("BatchNormalization", x, *ones))

    for index, depth in enumerate((6, 12, 24, 16)):
        for _ in range(depth):
            y = net.relu(net.conv(normed(x, cin), cin, 128))
            x, cin = net.op("Concat", x, net.conv(y, 128, 32, 3), axis=1), cin + 32
        if index < 3:
            x, cin = net.pool("AveragePool", net.conv(normed(x, cin), cin, cin // 2), 2, 2), cin // 2
    return net.save(path, net.head(normed(x, cin), cin), "batch", 1000)


def squeezenet(path: Path) -> Path:
    net, x = _image()
    x, cin = net.pool("MaxPool", net.relu(net.conv(x, 3, 64, 3, 2)), 3, 2), 64
    for squeeze, expand in ((16, 64), (16, 64), (0, 0), (32, 128), (32, 128), (0, 0), (48, 192), (48, 192), (64, 256),
                            (64, 256)):  # fmt: skip
        if not squeeze:
            x = net.pool("MaxPool", x, 3, 2)
            continue
        y = net.relu(net.conv(x, cin, squeeze))
        sides = [net.relu(net.conv(y, squeeze, expand, k)) for k in (1, 3)]
        x, cin = net.op("Concat", *sides, axis=1), 2 * expand
    x = net.op("GlobalAveragePool", net.relu(net.conv(x, cin, 1000)))
    return net.save(path, net.op("Flatten", x), "batch", 1000)


def efficientnet_b0(path: Path) -> Path:
    net, x = _image()
    x, cin = net.swish(net.conv(x, 3, 32, 3, 2)), 32
    for t, c, n, stride, k in ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
                               (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)):  # fmt: skip
        for layer in range(n):
            s, mid = 1 if layer else stride, t * cin
            y = net.swish(net.conv(x, cin, mid)) if t > 1 else x
            y = net.swish(net.conv(y, mid, mid, k, s, groups=mid))
            gate = net.swish(net.conv(net.op("GlobalAveragePool", y), mid, max(cin // 4, 1)))
            gate = net.op("Sigmoid", net.conv(gate, max(cin // 4, 1), mid))
            y = net.conv(net.op("Mul", y, gate), mid, c)
            x, cin = (net.op("Add", x, y) if s == 1 and cin == c else y), c
    return net.save(path, net.head(net.swish(net.conv(x, 320, 1280)), 1280), "batch", 1000)


def unet(path: Path) -> Path:
    """U-Net (Ronneberger et al., 2015) with half its channels, padded convolutions, on 256 x 256 images."""
    net, x = _image(256)

    def twice(x: str, cin: int, cout: int) -> str:
        return net.relu(net.conv(net.relu(net.conv(x, cin, cout, 3)), cout, cout, 3))

    skips, cin = [], 3
    for cout in (32, 64, 128, 256):
        skips.append(twice(x, cin, cout))
        x, cin = net.pool("MaxPool", skips[-1], 2, 2), cout
    x, cin = twice(x, 256, 512), 512
    for cout in (256, 128, 64, 32):
        up = net.op("ConvTranspose", x, net.weight(cin, cout, 2, 2), kernel_shape=[2, 2], strides=[2, 2])
        x, cin = twice(net.op("Concat", skips.pop(), up, axis=1), 2 * cout, cout), cout
    return net.save(path, net.conv(x, 32, 2), "batch", 2, 256, 256)


LAYERS = 4
"""Transformer layers built of each model's 12: each is like the next, and liveness ends within one."""


def bert(path: Path, tokens: int = 128, width: int = 768) -> Path:
    net = Net()
    ids = net.input("ids", "batch", tokens, kind=TensorProto.INT64)
    x = net.op("Add", net.op("Gather", net.weight(30522, width), ids), net.weight(tokens, width))
    x = net.norm(x, width)
    for _ in range(LAYERS):
        x = net.block(x, width, tokens, before=False)
    return net.save(path, x, "batch", tokens, width)


def gpt2(path: Path, tokens: int = 128, width: int = 768) -> Path:
    net = Net()
    ids = net.input("ids", "batch", tokens, kind=TensorProto.INT64)
    x = net.op("Add", net.op("Gather", net.weight(50257, width), ids), net.weight(tokens, width))
    mask = net.value(np.triu(np.full((tokens, tokens), -1e9, "float32"), 1))
    for _ in range(LAYERS):
        x = net.block(x, width, tokens, before=True, mask=mask)
    logits = net.op("MatMul", net.norm(x, width), net.weight(width, 50257))
    return net.save(path, logits, "batch", tokens, 50257)


def vit(path: Path, width: int = 768) -> Path:
    net, x = _image()
    patches = net.op(
        "Conv", x, net.weight(width, 3, 16, 16), net.weight(width), kernel_shape=[16, 16], strides=[16] * 2
    )
    flat = net.op("Reshape", patches, net.value(np.array([0, width, 196], "int64")))
    x = net.op("Add", net.op("Transpose", flat, perm=[0, 2, 1]), net.weight(196, width))
    for _ in range(LAYERS):
        x = net.block(x, width, 196, before=True)
    pooled = net.op("ReduceMean", net.norm(x, width), axes=[1], keepdims=0)
    return net.save(path, net.op("Gemm", pooled, net.weight(width, 1000), net.weight(1000)), "batch", 1000)


def lstm(path: Path, tokens: int = 256, width: int = 512) -> Path:
    """Two layers over embedded tokens, and a projection to a vocabulary of 10,000 (as of the PTB benchmark)."""
    net = Net()
    ids = net.input("ids", tokens, "batch", kind=TensorProto.INT64)
    x = net.op("Gather", net.weight(10000, width), ids)
    for _ in range(2):
        gates = net.weight(1, 4 * width, width), net.weight(1, 4 * width, width), net.weight(1, 8 * width)
        y = net.op("LSTM", x, *gates, hidden_size=width)
        x = net.op("Squeeze", y, net.value(np.array([1], "int64")))
    return net.save(path, net.dense(x, width, 10000), tokens, "batch", 10000)


ARCHITECTURES: dict[str, Callable[[Path], Path]] = {
    "ResNet-18": lambda path: resnet(path, (2, 2, 2, 2), bottleneck=False),
    "ResNet-50": lambda path: resnet(path, (3, 4, 6, 3), bottleneck=True),
    "VGG-11": vgg11,
    "MobileNetV2": mobilenet_v2,
    "DenseNet-121": densenet121,
    "SqueezeNet 1.1": squeezenet,
    "EfficientNet-B0": efficientnet_b0,
    "U-Net, half width": unet,
    f"BERT base, {LAYERS} of 12 layers": bert,
    f"GPT-2, {LAYERS} of 12 layers": gpt2,
    f"ViT-B/16, {LAYERS} of 12 layers": vit,
    "LSTM, 2 layers": lstm,
}
"""Builders by name; each writes a model of symbolic batch to a file."""
