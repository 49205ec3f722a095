"""References for the tests, independent of the program: its models as PyTorch modules, its data read with NumPy.
Needs torch."""

import csv
import gzip
import math
import re
import struct

import numpy
import torch
from torch import nn
from torch.nn import functional


class Mlp(nn.Module):
    def __init__(self, inputs, hidden, classes):
        super().__init__()
        self.hidden = len(hidden)
        widths = [inputs, *hidden, classes]
        for i, (a, b) in enumerate(zip(widths, widths[1:]), 1):
            self.add_module(f"fc{i}", nn.Linear(a, b))
            if i <= self.hidden:
                self.add_module(f"norm{i}", nn.BatchNorm1d(b))

    def forward(self, x):
        x = x.flatten(1)
        for i in range(1, self.hidden + 1):
            x = functional.relu(getattr(self, f"norm{i}")(getattr(self, f"fc{i}")(x)))
        return getattr(self, f"fc{self.hidden + 1}")(x)


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16)
        self.fc1, self.norm3 = nn.Linear(400, 120), nn.BatchNorm1d(120)
        self.fc2, self.norm4 = nn.Linear(120, 84), nn.BatchNorm1d(84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.norm1(self.conv1(x))), 2)
        x = functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 2).flatten(1)
        x = functional.relu(self.norm3(self.fc1(x)))
        return self.fc3(functional.relu(self.norm4(self.fc2(x))))


class Cnn(nn.Module):
    """Two convolutions with kernels of 5."""

    def __init__(self, inputs, channels, features, classes, side):
        super().__init__()
        a, b = channels
        self.conv1, self.norm1 = nn.Conv2d(inputs, a, 5, padding=2), nn.BatchNorm2d(a)
        self.conv2, self.norm2 = nn.Conv2d(a, b, 5, padding=2), nn.BatchNorm2d(b)
        self.fc1, self.norm3 = nn.Linear(b * (side // 4) ** 2, features), nn.BatchNorm1d(features)
        self.fc2 = nn.Linear(features, classes)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.norm1(self.conv1(x))), 2)
        x = functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 2)
        return self.fc2(functional.relu(self.norm3(self.fc1(x.flatten(1)))))


class Cnn1d(nn.Module):
    """Kernels of 3 after the first convolution."""

    def __init__(self, inputs, channels, first_kernel, first_stride, pool, classes):
        super().__init__()
        self.pool, self.depth = pool, len(channels)
        for i, width in enumerate(channels, 1):
            form = (first_kernel, first_stride) if i == 1 else (3, 1)
            self.add_module(f"conv{i}", nn.Conv1d(inputs, width, *form))
            self.add_module(f"norm{i}", nn.BatchNorm1d(width))
            inputs = width
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        for i in range(1, self.depth + 1):
            x = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x))
            x = functional.max_pool1d(functional.relu(x), self.pool)
        return self.fc(x.mean(2))


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.downsample(x))


class ResNet18(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for stage in range(4):
            outputs = width << stage
            blocks = [BasicBlock(inputs, outputs, 2 if stage else 1), BasicBlock(outputs, outputs, 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


class Vgg11(nn.Module):
    """With batch norm, and one linear layer; torchvision's numbers."""

    def __init__(self, width, classes):
        super().__init__()
        layers, inputs = [], 3
        for units, count in zip((1, 2, 4, 8, 8), (1, 1, 2, 2, 2)):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width * units, 3, padding=1), nn.BatchNorm2d(width * units), nn.ReLU()]
                inputs = width * units
            layers.append(nn.MaxPool2d(2))
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(inputs, classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Attention(nn.Module):
    def __init__(self, width, heads, names, causal):
        super().__init__()
        self.heads, self.names, self.causal = heads, names, causal
        self.add_module(names[0], nn.Linear(width, 3 * width))
        self.add_module(names[1], nn.Linear(width, width))

    def forward(self, x):
        batch, length, width = x.shape
        qkv = getattr(self, self.names[0])(x).view(batch, length, 3, self.heads, -1)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        scores = q @ k.transpose(2, 3) / math.sqrt(width // self.heads)
        if self.causal:
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        mixed = (scores.softmax(3) @ v).transpose(1, 2).reshape(batch, length, width)
        return getattr(self, self.names[1])(mixed)


class Transformer(nn.Module):
    """GPT-2 if `gpt` is set, otherwise the encoder that classifies by its first token, or by the mean of all."""

    def __init__(self, vocabulary, length, width, heads, depth, gpt, classes=0, mean=False):
        super().__init__()
        self.gpt, self.mean = gpt, mean
        names = ("blocks", "norm1", "attn", "norm2", "fc1", "fc2")
        if gpt:
            names = ("h", "ln_1", "attn", "ln_2", "c_fc", "c_proj")
        projections = ("c_attn", "c_proj") if gpt else ("qkv", "proj")
        self.block_names = names
        norm = lambda: nn.LayerNorm(width, eps=1e-5 if gpt else 1e-6)
        blocks = []
        for _ in range(depth):
            mlp = nn.ModuleDict({names[4]: nn.Linear(width, 4 * width), names[5]: nn.Linear(4 * width, width)})
            blocks.append(nn.ModuleDict({names[1]: norm(), "attn": Attention(width, heads, projections, gpt),
                                         names[3]: norm(), "mlp": mlp}))
        self.add_module(names[0], nn.ModuleList(blocks))
        if gpt:
            self.wte, self.wpe, self.ln_f = nn.Embedding(vocabulary, width), nn.Embedding(length, width), norm()
        else:
            self.tok_embed, self.norm, self.head = nn.Embedding(vocabulary, width), norm(), nn.Linear(width, classes)
            self.pos_embed = nn.Parameter(torch.zeros(length, width))

    def forward(self, tokens):
        prefix, norm1, attend, norm2, up, down = self.block_names
        x = self.wte(tokens) + self.wpe.weight if self.gpt else self.tok_embed(tokens) + self.pos_embed
        for block in getattr(self, prefix):
            x = x + block[attend](block[norm1](x))
            hidden = functional.gelu(block["mlp"][up](block[norm2](x)), approximate="tanh" if self.gpt else "none")
            x = x + block["mlp"][down](hidden)
        if self.gpt:
            return self.ln_f(x) @ self.wte.weight.T
        return self.head(self.norm(x).mean(1) if self.mean else self.norm(x[:, 0]))


class Lstm(nn.Module):
    """Predicts the next token after each one, or one class after the last."""

    def __init__(self, vocabulary, embed, hidden, layers, classes, every):
        super().__init__()
        self.every = every
        self.embedding = nn.Embedding(vocabulary, embed)
        self.lstm = nn.LSTM(embed, hidden, layers, batch_first=True)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, tokens):
        steps, _ = self.lstm(self.embedding(tokens))
        return self.fc(steps if self.every else steps[:, -1])


class Vit(nn.Module):
    """timm's vision transformer: classifies by a class token, or by the mean of the patches without such a token."""

    def __init__(self, side, patch, width, heads, depth, classes, mean):
        super().__init__()
        self.mean, patches = mean, (side // patch) ** 2
        norm = lambda: nn.LayerNorm(width, eps=1e-6)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        if not mean:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + (not mean), width))
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "norm1": norm(), "attn": Attention(width, heads, ("qkv", "proj"), False), "norm2": norm(),
            "mlp": nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})}) for _ in range(depth))
        self.norm, self.head = norm(), nn.Linear(width, classes)

    def forward(self, x):
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        if not self.mean:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = x + block["attn"](block["norm1"](x))
            x = x + block["mlp"]["fc2"](functional.gelu(block["mlp"]["fc1"](block["norm2"](x))))
        x = self.norm(x)
        return self.head(x.mean(1) if self.mean else x[:, 0])


def loaded(net, state):
    """Returns the module in double precision, with every tensor of `state`, in evaluation mode."""
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return net.double().eval()


def mean_loss(net, inputs, labels):
    with torch.no_grad():
        x = torch.from_numpy(numpy.ascontiguousarray(inputs))
        logits = net(x.double() if x.is_floating_point() else x)
        return functional.cross_entropy(logits.flatten(0, -2), torch.from_numpy(labels).flatten()).item()


def normalised(numbers, form):
    """Normalises as the group "data" of a checkpoint describes; dimension 1 is the channels."""
    values = numbers.astype(numpy.float64) * form["unit"]
    if len(form["mean"]) == 0:
        return values
    shape = [1, -1] + [1] * (values.ndim - 2)
    return (values - form["mean"].reshape(shape)) / form["deviation"].reshape(shape)


def idx(path):
    with (gzip.open if path.endswith(".gz") else open)(path) as file:
        data = file.read()
    extents = struct.unpack(f">{data[3]}I", data[4:4 + 4 * data[3]])
    return numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * data[3]).reshape(extents)


def cifar10(path):
    records = numpy.fromfile(path, numpy.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(numpy.int64)


def windows(tokens, length):
    """Returns inputs and labels of adjacent texts; each token except the first is a label once."""
    count = (len(tokens) - 1) // length
    cut = lambda first: numpy.array(tokens[first:first + count * length], numpy.int64).reshape(count, length)
    return cut(0), cut(1)


def words_of(text):
    """Words of texts that have only lower-case letters, full stops and commas."""
    return re.findall(r"[a-z]+|[.,]", text)


def encoded(words, vocabulary):
    numbers = {word: i for i, word in enumerate(vocabulary)}
    return [numbers.get(word, 1) for word in words]


def ag_news(path, length, vocabulary):
    rows, labels = [], []
    with open(path, newline="") as file:
        for label, title, text in csv.reader(file):
            tokens = encoded(words_of(title + " " + text), vocabulary)[:length]
            rows.append(tokens + [0] * (length - len(tokens)))
            labels.append(int(label) - 1)
    return numpy.array(rows, numpy.int64), numpy.array(labels, numpy.int64)


# The synthetic task, computed independently: Philox4x32-10 (Salmon et al. 2011), keyed by XXH3 of seed, purpose and counters.

LOW64 = (1 << 64) - 1
# The first 64 bytes of XXH3's default secret.
SECRET = bytes.fromhex("b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
                       "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c")


def fold(a, b):
    product = a * b
    return (product & LOW64) ^ (product >> 64)


def little(data, at):
    return int.from_bytes(data[at:at + 8], "little")


def xxh3(data):
    """XXH3 of 9 to 16, or of 33 to 64 bytes."""
    n = len(data)
    if n <= 16:
        low = little(data, 0) ^ little(SECRET, 24) ^ little(SECRET, 32)
        high = little(data, n - 8) ^ little(SECRET, 40) ^ little(SECRET, 48)
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        acc = n + swapped + high + fold(low, high)
    else:
        acc = n * 0x9E3779B185EBCA87
        for at, secret in ((16, 32), (n - 32, 48), (0, 0), (n - 16, 16)):
            acc += fold(little(data, at) ^ little(SECRET, secret), little(data, at + 8) ^ little(SECRET, secret + 8))
    acc &= LOW64
    acc = (acc ^ (acc >> 37)) * 0x165667919E3779F9 & LOW64
    return acc ^ (acc >> 32)


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def normals(seed, purpose, a, b, count):
    """The first `count` standard normal numbers of a stream, by Box and Muller."""
    key = xxh3(struct.pack("<5Q", seed, xxh3(purpose.encode()), a, b, 0))
    numbers = []
    for block in range((count + 1) // 2):
        w = philox([block & 0xFFFFFFFF, block >> 32, 0, 0], [key & 0xFFFFFFFF, key >> 32])
        u, v = ((w[i] | w[i + 1] << 32) >> 11 for i in (0, 2))
        radius, angle = math.sqrt(-2 * math.log(1 - u * 2.0**-53)), 2 * math.pi * v * 2.0**-53
        numbers += [radius * math.cos(angle), radius * math.sin(angle)]
    return numpy.array(numbers[:count])


def synthetic_test(seed, values, classes, samples, noise):
    """Samples of the test split: class means plus noise."""
    means = [normals(seed, "data.synthetic", 2, c, values).astype(numpy.float32) for c in range(classes)]
    labels = numpy.arange(samples) % classes
    rows = [means[c] + noise * normals(seed, "data.synthetic", 1, i, values) for i, c in enumerate(labels)]
    return numpy.array(rows).astype(numpy.float32), labels
