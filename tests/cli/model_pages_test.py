"""What docs/models/ says beside PyTorch: the modules that the pages name load exported weights and compute the recorded loss, the
first values have the distributions of the pages, and the sizes on the pages are those of the program."""

import glob
import math
import os
import re
import subprocess
import unittest

import numpy
import safetensors.numpy

from support import ESPALIER, ProgramTest

try:
    import foreign
    import torch
    from torch import nn
    NO_TORCH = ""
except ImportError as error:
    NO_TORCH = f"PyTorch cannot be imported: {error}"
try:
    import torchvision
    from torchvision.models import vgg as vggs
    NO_TORCHVISION = ""
except ImportError as error:
    NO_TORCHVISION = f"torchvision cannot be imported: {error}"
try:
    from timm.models.vision_transformer import VisionTransformer
    NO_TIMM = ""
except ImportError as error:
    NO_TIMM = f"timm cannot be imported: {error}"
try:
    import transformers
    NO_TRANSFORMERS = ""
except ImportError as error:
    NO_TRANSFORMERS = f"transformers cannot be imported: {error}"

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLASSES = 5


class ModelTest(ProgramTest):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("data"))
        self.random = numpy.random.default_rng(17)

    def arrays(self, x, y):
        """Writes a data set whose last third is the test split, and keeps that."""
        split = numpy.arange(len(x)) * 3 // len(x) // 2
        for name, values in (("x", x), ("y", y), ("split", split)):
            numpy.save(self.path("data", name + ".npy"), values)
        self.inputs, self.labels = x[split == 1], y[split == 1].astype(numpy.int64)

    def images(self, channels, side, count=18):
        x = self.random.normal(size=(count, channels, side, side)).astype(numpy.float32)
        self.arrays(x, numpy.arange(count) % CLASSES)

    def texts(self, vocabulary, length, count=30, next_token=False):
        x = self.random.integers(0, vocabulary, (count, length + 1))
        x[0, 0] = vocabulary - 1
        self.arrays(x[:, :-1], x[:, 1:] if next_token else numpy.arange(count) % CLASSES)
        return f"--data.vocabulary={vocabulary}"

    def exported(self, *settings):
        """Runs and exports. Returns the weights, the run, and the count of parameters that it prints."""
        run = self.run_ok("run", "--data.name=arrays", "--data.file=data", "--data.partition=iid", "--clients.count=2", "--clients.fleet=",
                          "--overwrite", *settings)
        done = self.espalier("export", self.checkpoint(run), self.path("out.safetensors"), "--overwrite")
        self.assertEqual(done.returncode, 0, done.stderr)
        return safetensors.numpy.load_file(self.path("out.safetensors")), run

    def compare(self, net, *settings):
        """After a round of training `net` loads every weight, has no other, and gives the recorded loss."""
        state, run = self.exported("--run.rounds=1", "--train.batch=6", *settings)
        net = foreign.loaded(net, {name: torch.from_numpy(values) for name, values in state.items()})
        trained = sum(values.size for name, values in state.items() if "running_" not in name)
        self.assertEqual(sum(p.numel() for p in net.parameters()), trained)
        loss = foreign.mean_loss(net, self.inputs, self.labels)
        recorded = self.column(run, "loss", "evaluations")
        self.assertEqual(len(recorded), 1)
        self.assertLess(abs(loss / recorded[0] - 1), 1e-5, f"{settings}: {loss} {recorded}")


# What `model.norm` is in the pages; the number of groups is the largest up to model.groups that divides the channels.
def norm_layer(kind, groups=4):
    if kind == "batch":
        return nn.BatchNorm2d
    if kind == "layer":
        return lambda channels: nn.GroupNorm(1, channels)
    return lambda channels: nn.GroupNorm(max(n for n in range(1, groups + 1) if channels % n == 0), channels)


def with_norms(net, kind, groups=4):
    """Replaces the batch norms of a module."""
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(net, name, norm_layer(kind, groups)(child.num_features))
        else:
            with_norms(child, kind, groups)
    return net


@unittest.skipIf(NO_TORCH or NO_TORCHVISION, NO_TORCH or NO_TORCHVISION)
class Torchvision(ModelTest):
    def test_resnets_with_the_imagenet_stem_are_torchvisions(self):
        self.images(3, 40)
        for depth in (18, 34, 50):
            self.compare(getattr(torchvision.models, f"resnet{depth}")(num_classes=CLASSES), "--model.name=resnet", "--model.stem=imagenet",
                         f"--model.depth={depth}")

    def test_a_resnet_with_the_cifar_stem_and_no_first_pooling(self):
        self.images(3, 16)
        net = torchvision.models.resnet18(num_classes=CLASSES)
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        self.compare(net, "--model.name=resnet")

    def vgg(self, depth, width, norm, image, hidden=None, groups=4):
        """torchvision's, changed as the page says."""
        form = [layer if layer == "M" else layer * width // 64 for layer in vggs.cfgs[{11: "A", 13: "B", 16: "D"}[depth]]]
        net = vggs.VGG(vggs.make_layers(form, batch_norm=norm != "none"), num_classes=CLASSES)
        net.avgpool = nn.Identity()
        features = form[-2] * (image // 32) ** 2
        if hidden is None:
            net.classifier = nn.Linear(features, CLASSES)
        else:
            net.classifier[0], net.classifier[3] = nn.Linear(features, hidden[0]), nn.Linear(*hidden)
            net.classifier[6] = nn.Linear(hidden[1], CLASSES)
        return with_norms(net, norm, groups)

    def test_vggs_of_width_64_are_torchvisions(self):
        self.images(3, 32)
        net = torchvision.models.vgg11_bn(num_classes=CLASSES)
        net.avgpool, net.classifier = nn.Identity(), nn.Linear(512, CLASSES)
        self.compare(net, "--model.name=vgg")
        net = torchvision.models.vgg13(num_classes=CLASSES)
        net.avgpool, net.classifier = nn.Identity(), nn.Linear(512, CLASSES)
        self.compare(net, "--model.name=vgg", "--model.depth=13", "--model.norm=none")

    def test_vggs_of_other_widths_norms_and_classifiers(self):
        for side, depth, width, norm, hidden in ((32, 16, 4, "batch", None), (64, 13, 8, "none", (14, 9)), (70, 11, 6, "group", (12, 10)),
                                                 (32, 16, 8, "layer", None)):
            self.images(3, side)
            own = (f"--model.depth={depth}", f"--model.width={width}", f"--model.norm={norm}")
            if hidden:
                own += ("--model.classifier={},{}".format(*hidden),)
            self.compare(self.vgg(depth, width, norm, side, hidden), "--model.name=vgg", *own)


@unittest.skipIf(NO_TORCH or NO_TIMM, NO_TORCH or NO_TIMM)
class Timm(ModelTest):
    def test_the_vision_transformer_of_the_page(self):
        with open(os.path.join(ROOT, "docs", "models", "vit.md"), encoding="utf-8") as file:
            page = file.read()
        made = re.search(r"net = VisionTransformer\((.*)\)\n", page)[1]
        changed = re.search(r"For `model.pooling = mean` add `(.*?)`", page)[1]
        self.images(3, 32)
        for extra, own in (("", ()), (", " + changed, ("--model.pooling=mean",))):
            words = f"dict({made}{extra})"
            sizes = eval(words, {}, {})  # pylint: disable=eval-used
            self.assertEqual(sizes.pop("num_classes"), 10)
            self.compare(VisionTransformer(num_classes=CLASSES, **sizes), "--model.name=vit", *own)

    def test_other_sizes(self):
        self.images(1, 30)
        net = VisionTransformer(img_size=30, patch_size=6, in_chans=1, embed_dim=20, depth=3, num_heads=5, mlp_ratio=1.5, num_classes=CLASSES)
        self.compare(net, "--model.name=vit", "--model.patch=6", "--model.embed=20", "--model.depth=3", "--model.heads=5", "--model.mlp=30")


@unittest.skipIf(NO_TORCH or NO_TRANSFORMERS, NO_TORCH or NO_TRANSFORMERS)
class HuggingFace(ModelTest):
    def test_gpt_is_gpt2_with_transposed_weights(self):
        vocabulary = self.texts(19, 7, next_token=True)
        state, run = self.exported("--run.rounds=1", "--train.batch=6", vocabulary, "--model.name=gpt", "--model.embed=24",
                                   "--model.depth=2", "--model.heads=4")
        net = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=19, n_positions=7, n_embd=24, n_layer=2, n_head=4))
        turned = {"transformer." + name: torch.from_numpy(values.T.copy() if re.search(r"\.c_\w+\.weight$", name) else values)
                  for name, values in state.items()}
        missing, unexpected = net.load_state_dict(turned, strict=False)
        self.assertEqual((set(missing), unexpected), ({"lm_head.weight"}, []))  # tied
        net.tie_weights()
        with torch.no_grad():
            logits = net.double().eval()(torch.from_numpy(self.inputs)).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(self.labels).flatten()).item()
        self.assertLess(abs(loss / self.column(run, "loss", "evaluations")[0] - 1), 1e-5)


@unittest.skipIf(NO_TORCH, NO_TORCH)
class Foreign(ModelTest):
    """Cases of tests/cli/foreign.py that weights_test.py does not have."""

    def test_an_encoder_with_the_mean(self):
        vocabulary = self.texts(23, 6)
        self.compare(foreign.Transformer(23, 6, 16, 2, 2, gpt=False, classes=CLASSES, mean=True), vocabulary, "--model.name=encoder",
                     "--model.embed=16", "--model.heads=2", "--model.depth=2", "--model.pooling=mean")

    def test_other_norms_of_resnet(self):
        self.images(3, 16)
        for norm, groups in (("group", 6), ("layer", 4)):
            self.compare(with_norms(foreign.ResNet18(10, CLASSES), norm, groups), "--model.name=resnet", "--model.width=10",
                         f"--model.norm={norm}", f"--model.groups={groups}")

    def test_norms_of_other_families(self):
        self.images(2, 12)
        for norm in ("group", "layer"):
            net = with_norms(foreign.Cnn(2, (6, 8), 10, CLASSES, 12), norm)
            # Vectors are channels of one pixel.
            net.norm3 = norm_layer(norm)(10)
            self.compare(net, "--model.name=cnn", "--model.channels=6,8", "--model.features=10", f"--model.norm={norm}")
            net = foreign.Mlp(288, (9, 8), CLASSES)
            net.norm1, net.norm2 = norm_layer(norm)(9), norm_layer(norm)(8)
            self.compare(net, "--model.name=mlp", "--model.hidden=9,8", f"--model.norm={norm}")

    def test_modules_without_norms(self):
        self.images(2, 12)
        net = foreign.Cnn(2, (6, 8), 10, CLASSES, 12)
        net.norm1 = net.norm2 = net.norm3 = nn.Identity()
        self.compare(net, "--model.name=cnn", "--model.channels=6,8", "--model.features=10", "--model.norm=none")
        net = foreign.Mlp(288, (9, 8), CLASSES)
        net.norm1 = net.norm2 = nn.Identity()
        self.compare(net, "--model.name=mlp", "--model.hidden=9,8", "--model.norm=none")


def distance(values, distribution):
    """The largest distance between the values' distribution function and the given one, times the root of their number
    (Kolmogorov and Smirnov): above 1.95 with a probability of 0.001 if the values are from it."""
    points = numpy.sort(numpy.asarray(values, float).ravel())
    steps = numpy.arange(len(points) + 1) / len(points)
    expected = distribution(points)
    return max(numpy.max(steps[1:] - expected), numpy.max(expected - steps[:-1])) * math.sqrt(len(points))


def uniform(bound):
    return lambda x: numpy.clip((x / bound + 1) / 2, 0, 1)


def normal(deviation):
    return lambda x: 0.5 + 0.5 * numpy.array([math.erf(v / deviation / math.sqrt(2)) for v in x])


class FirstValues(ModelTest):
    """The rule of a page for each entry by name: a distribution, or a constant. The seed is fixed, so each of the distances
    is one number; the bound has a probability of 1e-5 for each of about a hundred."""

    BOUND = 2.5

    def check(self, rules, *settings):
        state, _ = self.exported("--run.rounds=0", *settings)
        used = set()
        for name, values in state.items():
            if "running_" in name:
                continue
            rule = next((r for r in rules if re.fullmatch(r, name)), None)
            self.assertIsNotNone(rule, name)
            used.add(rule)
            wanted = rules[rule]
            if callable(wanted):
                wanted = wanted(values, state)
            if callable(wanted):
                self.assertLess(distance(values, wanted), self.BOUND, f"{settings}: {name}")
            else:
                self.assertTrue((values == wanted).all(), f"{settings}: {name}")
        self.assertEqual(used, set(rules))

    @staticmethod
    def inputs_of(values, state):
        return uniform(1 / math.sqrt(values[0].size))

    @staticmethod
    def bias_of(weight):
        """Biases have the bound of their layer's weights."""
        return lambda values, state: uniform(1 / math.sqrt(state[weight][0].size))

    @staticmethod
    def he(values, state):
        return normal(math.sqrt(2 / (values.size / values.shape[1])))  # fan out: outputs x pixels of the kernel

    def test_plain_families_begin_as_pytorch_does(self):
        biases = {name: {f"{layer}.bias": self.bias_of(f"{layer}.weight") for layer in layers} for name, layers in
                  {"mlp": ("fc1", "fc2", "fc3"), "lenet": ("conv1", "conv2", "fc1", "fc2", "fc3"), "cnn": ("conv1", "conv2", "fc1", "fc2")}.items()}
        weights = {r"(fc|conv)\d\.weight": self.inputs_of}
        norms = {r"norm\d\.weight": 1, r"norm\d\.bias": 0}
        self.images(2, 14)
        self.check({**weights, **biases["mlp"]}, "--model.name=mlp", "--model.hidden=60,50")
        self.check({**weights, **biases["lenet"], **norms}, "--model.name=lenet", "--model.norm=batch")
        self.check({**weights, **biases["cnn"]}, "--model.name=cnn", "--model.channels=20,30", "--model.features=40", "--model.norm=none")
        self.arrays(self.random.normal(size=(18, 3, 400)).astype(numpy.float32), numpy.arange(18) % CLASSES)
        self.check({**weights, **norms, **{f"{layer}.bias": self.bias_of(f"{layer}.weight") for layer in ("conv1", "conv2", "fc")},
                    "fc.weight": self.inputs_of}, "--model.name=cnn1d", "--model.channels=30,40", "--model.first_kernel=20")

    def test_vgg_and_resnet(self):
        self.images(3, 32)
        norms = {r"features\.\d+\.weight": lambda values, state: 1 if values.ndim == 1 else self.he(values, state), r"features\.\d+\.bias": 0}
        self.check({**norms, "classifier.weight": self.inputs_of, "classifier.bias": self.bias_of("classifier.weight")},
                   "--model.name=vgg", "--model.width=8")
        self.check({r"(layer.*|conv1)\.weight": lambda values, state: 1 if values.ndim == 1 else self.he(values, state), "bn1.weight": 1,
                    "(layer.*|bn1).bias": 0, "fc.weight": self.inputs_of, "fc.bias": self.bias_of("fc.weight")},
                   "--model.name=resnet", "--model.width=8", "--model.depth=50", "--model.stem=imagenet")

    def test_transformers(self):
        small = ("--model.embed=32", "--model.heads=2", "--model.depth=3")
        block = {r".*(norm\d?|ln_\w)\.weight": 1, r".*(norm\d?|ln_\w)\.bias": 0}
        self.images(3, 16)
        patch = lambda values, state: uniform(1 / math.sqrt(state["patch_embed.proj.weight"][0].size))
        self.check({**block, r"patch_embed\.proj\.(weight|bias)": patch, "cls_token|pos_embed": normal_rule(0.02),
                    r"(blocks\..*|head)\.weight": normal_rule(0.02), r"(blocks\..*|head)\.bias": 0}, "--model.name=vit", "--model.patch=4", *small)
        vocabulary = self.texts(40, 9)
        self.check({**block, "tok_embed.weight|pos_embed": normal_rule(0.02), r"(blocks\..*|head)\.weight": normal_rule(0.02),
                    r"(blocks\..*|head)\.bias": 0}, vocabulary, "--model.name=encoder", *small)
        vocabulary = self.texts(40, 9, next_token=True)
        self.check({**block, "w[tp]e.weight": normal_rule(0.02), r"h\..*\.c_proj\.weight": normal_rule(0.02 / math.sqrt(6)),
                    r"h\..*\.(c_attn|c_fc)\.weight": normal_rule(0.02), r"h\..*\.bias": 0}, vocabulary, "--model.name=gpt", *small)

    def test_lstm(self):
        vocabulary = self.texts(40, 9)
        layer = lambda values, state: uniform(1 / math.sqrt(state["lstm.weight_hh_l0"].shape[1]))
        self.check({"embedding.weight": normal_rule(1), r"lstm\..*": layer, "fc.weight": self.inputs_of, "fc.bias": self.bias_of("fc.weight")},
                   vocabulary, "--model.name=lstm", "--model.embed=24", "--model.hidden=28", "--model.layers=2")

    @unittest.skipIf(NO_TORCH, NO_TORCH)
    def test_these_are_pytorchs_defaults(self):
        torch.manual_seed(3)
        for layer, fan in ((nn.Linear(90, 70), 90), (nn.Conv2d(6, 70, 5), 150), (nn.Conv1d(6, 70, 9), 54), (nn.LSTM(20, 60), 60)):
            for name, values in layer.named_parameters():
                self.assertLess(distance(values.detach(), uniform(1 / math.sqrt(fan))), self.BOUND, f"{layer}: {name}")
        self.assertLess(distance(nn.Embedding(70, 60).weight.detach(), normal(1)), self.BOUND)

    @unittest.skipIf(NO_TORCHVISION, NO_TORCHVISION)
    def test_these_are_torchvisions_first_convolutions(self):
        torch.manual_seed(4)
        for net in (torchvision.models.resnet18(), torchvision.models.vgg11_bn(init_weights=True)):
            for name, layer in net.named_modules():
                if isinstance(layer, nn.Conv2d) and layer.weight.numel() < 40000:
                    self.assertLess(distance(layer.weight.detach(), self.he(layer.weight.detach().numpy(), {})), self.BOUND, name)
                    self.assertTrue(layer.bias is None or (layer.bias == 0).all(), name)
        with torch.no_grad():  # the difference that the page of vgg names
            self.assertLess(distance(net.classifier[6].weight.flatten()[:5000], normal(0.01)), self.BOUND)


def normal_rule(deviation):
    return lambda values, state: normal(deviation)


class Sizes(unittest.TestCase):
    def listed(self):
        """Parameters at full width, FLOP, and parameters at half width, by family."""
        found, name = {}, ""
        text = subprocess.run([ESPALIER, "list", "models", "-v"], text=True, capture_output=True, check=True).stdout
        for line in text.splitlines():
            if not line.startswith(" "):
                name = line.split()[0]
            elif line.split()[0] == "total":
                numbers = [int(word) for word in line.split()[1:]]
                found[name] = numbers[0], numbers[1], numbers[4]
        return found

    def test_the_pages_have_the_programs_sizes(self):
        found = self.listed()
        pages = glob.glob(os.path.join(ROOT, "docs", "models", "*.md"))
        self.assertEqual({os.path.basename(page)[:-3] for page in pages}, set(found))
        for page in pages:
            with open(page, encoding="utf-8") as file:
                text = file.read().replace("\n", " ")
            size = re.search(r"\*\*Size\*\*.*?: ([\d,]+) parameters, ([\d,]+) FLOP forward; at half width ([\d,]+) parameters", text)
            self.assertIsNotNone(size, page)
            self.assertEqual(tuple(int(number.replace(",", "")) for number in size.groups()), found[os.path.basename(page)[:-3]], page)

    @unittest.skipIf(NO_TORCH, NO_TORCH)
    def test_pytorchs_modules_have_them_too(self):
        found = self.listed()
        count = lambda net, without="?": sum(p.numel() for name, p in net.named_parameters() if not name.startswith(without))
        nets = {"mlp": (foreign.Mlp(784, (200,), 10), "norm"), "lenet": (foreign.LeNet(), "norm"),
                "cnn": (foreign.Cnn(1, (32, 64), 512, 10, 28), "norm"), "cnn1d": (foreign.Cnn1d(1, (32, 32, 64, 64), 80, 16, 4, 35), "?"),
                "vgg": (foreign.Vgg11(64, 10), "?"), "resnet": (foreign.ResNet18(64, 10), "?"),
                "vit": (foreign.Vit(32, 4, 192, 3, 6, 10, mean=False), "?"), "gpt": (foreign.Transformer(256, 64, 192, 3, 6, gpt=True), "?"),
                "encoder": (foreign.Transformer(10000, 64, 192, 3, 6, gpt=False, classes=4), "?"),
                "lstm": (foreign.Lstm(256, 8, 256, 2, 256, every=True), "?")}
        self.assertEqual({name: count(*net) for name, net in nets.items()}, {name: sizes[0] for name, sizes in found.items()})


if __name__ == "__main__":
    unittest.main()
