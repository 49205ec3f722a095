"""tools/tokenize.py: documents, clients and splits of small texts, and texts that are read piece by piece."""

import importlib.util
import json
import os
import random
import sys
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest, finish, read_bytes  # noqa: E402

TOOLS = os.path.join(os.path.dirname(os.environ["ESPALIER_INPUTS"]), "tools")
BYTES = {**{b: chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))}}
BYTES.update({b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in BYTES)})
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "Ġ Ġ", "1 2", "Ċ Ċ", "Ġ a", "a b"]
TOKENS = ["<|end|>", *(BYTES[b] for b in range(256)), *(merge.replace(" ", "") for merge in MERGES)]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}

PLAY = """\ufeff
KING:
Good day,  hello.

What?

A FOOL:\r
12 o'clock\r
\r
\r
KING: hello
KING:
No.


(They leave)
"""


def tokenizer(**changes):
    token = {"id": 0, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [token], "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]}, "post_processor": None, "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {text: i for i, text in enumerate(TOKENS)}, "merges": [merge.split() for merge in MERGES]}, **changes})


@unittest.skipIf(importlib.util.find_spec("tokenizers") is None,
                 "skipped: this Python lacks tokenizers (tools/setup.sh --tests installs it)")
class TokenizeText(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("tokenizer.json", tokenizer())
        with open(self.path("play.txt"), "w", encoding="utf-8", newline="") as file:
            file.write(PLAY)
        sys.path.append(TOOLS)

    def tool(self, *words):
        return finish(self.begin([sys.executable, os.path.join(TOOLS, "tokenize.py"), *words, "--tokenizer", "tokenizer.json"]), 100)

    def arrays(self, *words):
        """Runs the tool, and returns the text of each document, its split, its client's name, and meta.json."""
        from tokenizers import Tokenizer
        done = self.tool(*words, "--to", "out")
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.path("out", "meta.json"), encoding="utf-8") as file:
            meta = json.load(file)
        tokens = np.load(self.path("out", "tokens.npy"), mmap_mode="r")
        ends, split = np.load(self.path("out", "documents.npy")), np.load(self.path("out", "split.npy"))
        self.assertEqual((ends.dtype, ends[0], ends[-1], split.dtype), (np.int64, 0, len(tokens), np.uint8))
        self.assertEqual(len(ends), len(split) + 1)
        decode = Tokenizer.from_file(self.path("tokenizer.json")).decode
        texts = [decode(tokens[a:b].tolist(), skip_special_tokens=False) for a, b in zip(ends, ends[1:])]
        clients = None
        if "clients" in meta:
            client = np.load(self.path("out", "client.npy"))
            self.assertEqual((client.dtype, len(client)), (np.int32, len(split)))
            clients = [None if c < 0 else meta["clients"][c] for c in client]
        else:
            self.assertFalse(os.path.exists(self.path("out", "client.npy")))
        self.kind, self.tokens = tokens.dtype, tokens
        return texts, split.tolist(), clients, meta

    def test_documents_are_the_text(self):
        whole = PLAY.removeprefix("\ufeff")
        texts, split, clients, meta = self.arrays("play.txt")
        self.assertEqual((texts, split, clients), ([whole], [0], None))
        self.assertEqual(meta, {"vocabulary": len(TOKENS), "tokenizer": "tokenizer.json", "eos": None})
        self.assertEqual(self.kind, np.uint16)
        texts, _, _, _ = self.arrays("play.txt", "--documents", "line")
        self.assertEqual(texts, ["\nKING:\n", "Good day,  hello.\n\n", "What?\n\n", "A FOOL:\r\n", "12 o'clock\r\n\r\n\r\n",
                                 "KING: hello\n", "KING:\n", "No.\n\n\n", "(They leave)\n"])
        texts, _, clients, meta = self.arrays("play.txt", "--documents", "paragraph", "--client", "speaker")
        self.assertEqual(texts, ["\nKING:\nGood day,  hello.\n\n", "What?\n\n", "A FOOL:\r\n12 o'clock\r\n\r\n\r\n",
                                 "KING: hello\nKING:\nNo.\n\n\n", "(They leave)\n"])
        # Only a name alone in the first line of a paragraph is a speaker.
        self.assertEqual(clients, ["KING", None, "A FOOL", None, None])
        self.assertEqual(sorted(meta["clients"]), ["A FOOL", "KING"])

    def test_files_of_both_splits_and_ends(self):
        self.write("a.txt", "hello a")
        self.write("b.txt", "hello <|end|> b")
        self.write("empty.txt", "")
        texts, split, clients, meta = self.arrays("a.txt", "empty.txt", "--test", "b.txt", "--client", "file", "--end-token", "<|end|>")
        self.assertEqual((texts, split, clients), (["hello a<|end|>", "hello <|end|> b<|end|>"], [0, 1], ["a.txt", "b.txt"]))
        self.assertEqual((meta["eos"], self.tokens.tolist().count(0)), (0, 3))
        texts, split, _, _ = self.arrays("--test", "b.txt")
        self.assertEqual((texts, split), (["hello <|end|> b"], [1]))

    def test_a_note_names_the_split_that_a_run_would_miss(self):
        self.write("some.csv", "who,said\nann,hello\nbob,good day\n")
        for words, arguments in (("no document is for tests", ("some.csv", "--csv", "said", "--client", "who")),
                                 ("every document is for tests", ("--csv", "said", "--test", "some.csv")),
                                 ("", ("some.csv", "--csv", "said", "--test-share", "0.3"))):
            done = self.tool(*arguments, "--to", "noted")
            self.assertEqual((done.returncode, done.stderr.count("note: ")), (0, 1 if words else 0), done.stderr)
            self.assertIn(words, done.stderr)

    def test_a_failure_leaves_an_older_folder_as_it_was(self):
        self.arrays("play.txt")
        before = {name: read_bytes(self.path("out", name)) for name in os.listdir(self.path("out"))}
        self.write("blank.txt", "")
        done = self.tool("blank.txt", "--to", "out")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertEqual({name: read_bytes(self.path("out", name)) for name in os.listdir(self.path("out"))}, before)

    def test_a_disk_that_fills_up_keeps_nothing_of_it(self):
        self.write("long.txt", "hello hello\n" * 20000)
        limited = ("import resource, subprocess, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (70000, 70000)); "
                   "sys.exit(subprocess.run(sys.argv[1:]).returncode)")
        done = finish(self.begin([sys.executable, "-c", limited, sys.executable, os.path.join(TOOLS, "tokenize.py"), "long.txt", "--documents",
                                  "line", "--tokenizer", "tokenizer.json", "--to", "never"]), 100)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (4, 1), done.stderr)
        self.assertIn("cannot be written: File too large", done.stderr)
        self.assertFalse(os.path.exists(self.path("never")))

    def test_the_last_documents_are_for_tests(self):
        """Each line has 4 tokens; a part of a document is not enough for the share."""
        self.write("a.txt", "abc\n" * 10)
        self.write("b.txt", "xyz\n" * 4)
        for share, wanted in (("0.1", [0] * 9 + [1] + [0] * 3 + [1]), ("0.3", [0] * 7 + [1] * 3 + [0] * 2 + [1] * 2),
                              ("0.31", [0] * 6 + [1] * 4 + [0] * 2 + [1] * 2)):
            _, split, _, _ = self.arrays("a.txt", "b.txt", "--documents", "line", "--test-share", share)
            self.assertEqual(split, wanted, share)

    def test_clients_with_the_most_training_tokens_are_the_first(self):
        """Tests do not count: c has most tokens, but only in the test split; d and b have as many."""
        for name, text in (("a", "xyz"), ("b", "xyzxyz"), ("d", "xyzxyz"), ("c", "xyz" * 9)):
            self.write(name, text)
        texts, split, clients, meta = self.arrays("a", "d", "b", "--test", "c", "--client", "file")
        self.assertEqual((clients, meta["clients"]), (["a", "d", "b", "c"], ["d", "b", "a", "c"]))
        self.assertEqual(np.load(self.path("out", "client.npy")).tolist(), [2, 0, 1, 3])

    def test_rows_of_a_table(self):
        self.write("a.csv", 'user,text\nann,"hello, a\nb"\nbob,\nbob,12\n,"say ""a"""\nann,x\n')
        texts, _, clients, _ = self.arrays("a.csv", "--csv", "text", "--client", "user")
        self.assertEqual(texts, ["hello, a\nb", "12", 'say "a"', "x"])
        self.assertEqual(clients, ["ann", "bob", None, "ann"])

    def test_tokens_of_a_model_with_more(self):
        _, _, _, meta = self.arrays("play.txt", "--vocabulary", "65536")
        self.assertEqual((meta["vocabulary"], self.kind), (65536, np.uint16))
        before = self.tokens.tolist()
        _, _, _, meta = self.arrays("play.txt", "--vocabulary", "65537")
        self.assertEqual((meta["vocabulary"], self.kind, self.tokens.tolist()), (65537, np.int32, before))

    def test_pieces_have_the_tokens_of_the_whole(self):
        """Random texts in pieces of 20 characters: no part is much longer than the distance between two words."""
        import tokenize_text
        from tokenizers import Tokenizer
        own = Tokenizer.from_file(self.path("tokenizer.json"))
        self.assertTrue(tokenize_text.is_breakable(own))
        draw = random.Random(3)
        parts = [*"ab hello 12.'\n\r\t", "don't", " 12", "\n\n", "<|end|>", "é", " 'll", "hello \n", "  ", "½"]
        piece, tokenize_text.PIECE = tokenize_text.PIECE, 20
        self.addCleanup(setattr, tokenize_text, "PIECE", piece)
        cuts = 0
        for _ in range(300):
            text = "".join(draw.choice(parts) for _ in range(150))
            pieces = list(tokenize_text.parts_of(iter([text[i:i + 20] for i in range(0, len(text), 20)]), True))
            cuts += len(pieces) - 1
            self.assertEqual("".join(pieces), text)
            self.assertEqual(sum((own.encode(piece, add_special_tokens=False).ids for piece in pieces), []),
                             own.encode(text, add_special_tokens=False).ids)
        self.assertGreater(cuts, 1000)

    def test_other_rules_get_whole_documents(self):
        import tokenize_text
        from tokenizers import Tokenizer
        token = {"id": 0, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": True, "normalized": False, "special": True}
        for changes in ({"pre_tokenizer": None}, {"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}},
                        {"pre_tokenizer": {**BYTE_LEVEL, "use_regex": False}}, {"normalizer": {"type": "NFC"}},
                        {"added_tokens": [token]}):
            self.assertFalse(tokenize_text.is_breakable(Tokenizer.from_str(tokenizer(**changes))), changes)
        self.assertEqual(list(tokenize_text.parts_of(iter(["a b ", "c d "]), False)), ["a b c d "])

    def refused(self, status, words, *arguments):
        done = self.tool(*arguments, "--to", "never")
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (status, "", 1), done.stderr)
        self.assertIn(words, done.stderr)
        self.assertFalse(os.path.exists(self.path("never")))

    def test_bad_input_is_one_sentence(self):
        with open(self.path("latin.txt"), "wb") as file:
            file.write("naïve".encode("latin-1"))
        self.refused(3, "latin.txt is not UTF-8", "latin.txt")
        self.refused(2, "absent.txt is no file", "absent.txt")
        self.refused(2, "there is no text")
        self.refused(2, "cut it by --documents", "play.txt", "--test-share", "0.1")
        self.refused(2, "a fraction between 0 and 1", "play.txt", "--test-share", "1", "--documents", "line")
        self.refused(2, "add --documents paragraph", "play.txt", "--client", "speaker")
        self.refused(2, "neither 'file' nor 'speaker'", "play.txt", "--client", "user")
        self.refused(2, "has no token '</s>'", "play.txt", "--end-token", "</s>")
        self.refused(2, f"--vocabulary is less than the {len(TOKENS)} tokens", "play.txt", "--vocabulary", "100")
        self.write("a.csv", "user,text\nann,hello\nbob\n")
        self.refused(2, "has no column 'who'; its columns: user, text", "a.csv", "--csv", "text", "--client", "who")
        self.refused(3, "a.csv, line 3: the row has no 'text'", "a.csv", "--csv", "text")
        self.write("blank.txt", "")
        self.refused(3, "the texts have no tokens", "blank.txt")
        self.write("tokenizer.json", "{}")
        self.refused(3, "tokenizer.json cannot be read as a tokenizer.json", "play.txt")


if __name__ == "__main__":
    unittest.main()
