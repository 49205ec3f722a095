"""The tokens of our reader of tokenizer.json against those of the package `tokenizers`, whose results it promises: tokenizers of
several kinds, trained here on a text of $ESPALIER_DATA, and the strings that are hard for them."""

import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest

try:
    import tokenizers
except ImportError:
    tokenizers = None

PROGRAM = os.path.join(os.path.dirname(os.environ["ESPALIER_LOAD_DATA"]), "tokenize_texts")
TEXTS = os.path.join(os.environ.get("ESPALIER_DATA", ""), "wikitext-2")
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

HARD = ["", " ", "  ", "\n", " \n\n  a", "a  b   c\t\td", "don't we'LL I'm it's 's", "1234567 12.5%", "½ ² ① Ⅷ ٣٤٥ १२३",
        "naïve café", "日本語のテキスト、中国文字", "👩‍👩‍👧 🏳️‍🌈 emoji🙂🙂", "\u180e mvs\u180e", "a\u00a0b\u2003c\u3000d\u0085e\u2028f",
        "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>", "<|im_start", "<|im_start|><|im_start|>", "\x00\x01\x7f", "\ufeffbom",
        "e\u0301 combining", "مرحبا بالعالم", "Привет, мир!", "ไทยไม่มีวรรค", "한국어 문장", "\U000e0001 \U0010ffff \U0001f1e9\U0001f1ea",
        "x" * 500, "=" * 1000, " " * 300 + "a" + " " * 77, "\r\n\r\n \r", "ﬁ ligature ǅ", "_under__score_ [a](b) {c} `d`",
        "for(int i=0;i<10;++i){\n\tx[i]=i*2;\n}", "https://a.b/c?d=e&f=1#g", "ÿþý ÀÁ õ", "\u0378 unassigned"]
PIECES = [" ", "  ", "\n", "\t", "a", "b", "'s", "'", "é", "1", "23", "½", "٣", "!", "?!", "日", "本", "🙂", "\u200d", "\u0301", "\u00a0",
          "<|im_end|>", "<|", "A", "'LL", "_", "\r\n", "\u180e", "𝟙", "Ω", "\x00"]
RANGES = [(32, 0x24f), (0x370, 0x1fff), (0x2000, 0x33ff), (0x1f300, 0x1f6ff)]


def odd_strings():
    draw = random.Random(5)
    strings = list(HARD)
    strings += ["".join(draw.choice(PIECES) for _ in range(draw.randint(1, 60))) for _ in range(200)]
    strings += ["".join(chr(draw.randint(*draw.choice(RANGES))) for _ in range(40)) for _ in range(60)]
    return strings


def kinds():
    """Name and pre-tokenizer of the kinds that published models have."""
    pre = tokenizers.pre_tokenizers
    plain = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre.ByteLevel(add_prefix_space=False)
    return [("gpt2", words),
            ("prefix space", pre.ByteLevel(add_prefix_space=True)),
            ("smollm", pre.Sequence([pre.Digits(individual_digits=True), words])),
            ("runs of digits", pre.Sequence([pre.Digits(individual_digits=False), words])),
            ("llama3", pre.Sequence([pre.Split(tokenizers.Regex(LLAMA3), "isolated"), plain])),
            ("matches only", pre.Sequence([pre.Split(tokenizers.Regex(r"\p{L}+|\s"), "removed", invert=True), plain]))]


@unittest.skipIf(tokenizers is None, f"{sys.executable} lacks the package tokenizers (tools/setup.sh --language installs it)")
@unittest.skipUnless(os.path.isdir(TEXTS), "there is no folder wikitext-2 in $ESPALIER_DATA")
class SameAsThePackage(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = os.path.join(folder.name, "tokenizer.json")

    def trained(self, cut, post=None):
        made = tokenizers.Tokenizer(tokenizers.models.BPE())
        made.pre_tokenizer = cut
        made.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=900, special_tokens=MARKS, show_progress=False,
                                                 initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
        with open(os.path.join(TEXTS, "valid.txt"), encoding="utf-8") as text:
            made.train_from_iterator([text.read(150_000)], trainer)
        if post:
            made.post_processor = post
        made.save(self.file)
        return made

    def compare(self, made, strings):
        data = [string.encode() for string in strings]
        out = subprocess.run([PROGRAM, self.file], input=b"".join(struct.pack("<i", len(d)) + d for d in data),
                             stdout=subprocess.PIPE, check=True).stdout
        at = 0

        def take(code, size):
            nonlocal at
            count, = struct.unpack_from("<i", out, at)
            values = struct.unpack_from(f"<{count}{code}" if code != "s" else f"{count}s", out, at + 4)
            at += 4 + count * size
            return values
        for string in strings:
            tokens = list(take("i", 4))
            text = take("s", 1)[0].decode()
            wanted = made.encode(string).ids
            self.assertEqual(tokens, wanted, repr(string[:100]))
            self.assertEqual(text, made.decode(wanted, skip_special_tokens=False), repr(string[:100]))
        self.assertEqual(at, len(out))

    def test_odd_strings(self):
        for name, cut in kinds():
            with self.subTest(name):
                self.compare(self.trained(cut), odd_strings())

    def test_a_whole_text(self):
        """WikiText-2's test text, 1.2 MB."""
        with open(os.path.join(TEXTS, "test.txt"), encoding="utf-8", newline="") as text:
            self.compare(self.trained(dict(kinds())["smollm"]), [text.read()])

    def test_a_template(self):
        post = tokenizers.processors.TemplateProcessing(single="<|im_start|> $A <|im_end|>", special_tokens=[(m, i) for i, m in enumerate(MARKS)])
        self.compare(self.trained(dict(kinds())["gpt2"], post), HARD)

    def test_a_given_tokenizer(self):
        """That of $ESPALIER_TOKENIZER, such as SmolLM2's."""
        given = os.environ.get("ESPALIER_TOKENIZER")
        if not given:
            self.skipTest("$ESPALIER_TOKENIZER names no tokenizer.json")
        self.file = given
        with open(os.path.join(TEXTS, "test.txt"), encoding="utf-8", newline="") as text:
            self.compare(tokenizers.Tokenizer.from_file(given), odd_strings() + [text.read()])


if __name__ == "__main__":
    unittest.main()
