#!/usr/bin/env python3
"""Turns texts into arrays of tokens for `data.name = tokens`.

TEXT files must be UTF-8. They are cut into documents: whole files, lines, or paragraphs, which end where a blank line does.
Blank lines and line ends belong to the document before them, so all documents together are the text, byte for byte. With --csv the
files are tables, and each row is a document. Large files are read piece by piece. docs/language-models.md describes the arrays.
"""

import argparse
import array
import contextlib
import csv
import itertools
import json
import pathlib
import re
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent))
from command_line import Parser, ends_well
from needed_packages import need

need("numpy", "tokenizers")
import numpy as np
from tokenizers import Tokenizer

from llama_files import FileError, errors_end_the_tool

EXAMPLES = """examples:
  tools/tokenize.py wiki.txt --tokenizer smollm2/tokenizer.json --to wiki
  tools/tokenize.py plays.txt --documents paragraph --client speaker \\
      --test-share 0.1 --tokenizer smollm2/tokenizer.json --to plays
  tools/tokenize.py posts.csv --csv text --client user --test-share 0.1 \\
      --end-token '<|endoftext|>' --tokenizer smollm2/tokenizer.json --to posts"""
PIECE = 1 << 17  # characters that are read or tokenised at a time
HEADER = 128  # bytes before the tokens in tokens.npy: the number of tokens is known only at the end
TRAIN, TEST = 0, 1
SPEAKER = re.compile(r"([^\n:]{1,40}):[ \t]*\r?(\n|$)")
# The text up to the last place where GPT-2's rule cuts in any case: a space or a line end after a letter.
BREAK = re.compile(r"(?s:.*)(?<=[A-Za-z])(?=[ \r\n])")


@contextlib.contextmanager
def opened(path, **how):
    try:
        with open(path, encoding="utf-8-sig", **how) as file:
            yield file
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8: {error.reason}; iconv converts other encodings", 3) from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None


def pieces_of(path):
    """The text of a file, PIECE characters at a time. Line ends stay as they are."""
    with opened(path, newline="") as file:
        while piece := file.read(PIECE):
            yield piece


def joined_lines(path, is_start):
    """Documents that begin at each line for which `is_start(line, line before)`."""
    lines, before = [], None
    with opened(path, newline="\n") as file:
        for line in file:
            if before is not None and is_start(line, before) and any(map(str.strip, lines)):
                yield "".join(lines)
                lines = []
            lines.append(line)
            before = line
    if lines:
        yield "".join(lines)


def begins_line(line, _):
    return bool(line.strip())


def begins_paragraph(line, before):
    return bool(line.strip()) and not before.strip()


def documents_of(path, arguments):
    """The documents of a file, each as (pieces of its text, name of its client or None)."""
    if arguments.csv:
        yield from rows_of(path, arguments.csv, arguments.client)
    elif arguments.documents == "file":
        yield pieces_of(path), str(path)
    else:
        for text in joined_lines(path, begins_line if arguments.documents == "line" else begins_paragraph):
            if arguments.client == "speaker":
                match = SPEAKER.match(text.lstrip())
                yield [text], match[1].strip() if match else None
            else:
                yield [text], str(path)


def rows_of(path, text, client):
    csv.field_size_limit(1 << 30)  # characters of a cell; its default is 131,072
    with opened(path, newline="") as file:
        try:
            table = csv.DictReader(file, strict=True)
            for column in (text, client):
                if column not in (None, "file", *(table.fieldnames or ())):
                    raise FileError(f"{path} has no column '{column}'; its columns: {', '.join(table.fieldnames or ())}")
            for row in table:
                if row[text] is None:
                    raise FileError(f"{path}, line {table.line_num}: the row has no '{text}'", 3)
                if row[text]:
                    yield [row[text]], str(path) if client in (None, "file") else (row[client] or None)
        except csv.Error as error:
            raise FileError(f"{path}, line {table.line_num}: {error}", 3) from None


def is_breakable(tokenizer):
    """Whether the tokens of a text are those of its parts, if it is cut at BREAK: with GPT-2's rule and single digits, without
    normaliser and without tokens that hold, or take from around them, spaces or line ends. Other tokenizers get whole documents."""
    rules = json.loads(tokenizer.to_str())
    cut = rules["pre_tokenizer"] or {}
    cuts = cut.get("pretokenizers", [cut])
    return (rules["normalizer"] is None and {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}.items() <= cuts[-1].items()
            and all(other["type"] == "Digits" for other in cuts[:-1])
            and not any(token["lstrip"] or token["rstrip"] or re.search(r"\s", token["content"]) for token in rules["added_tokens"]))


def parts_of(pieces, breakable):
    """The text of a document in parts whose tokens together are those of the whole."""
    if not breakable:
        if text := "".join(pieces):
            yield text
        return
    rest = ""
    for piece in pieces:
        rest += piece
        if len(rest) >= PIECE and (match := BREAK.match(rest)):
            yield match[0]
            rest = rest[match.end():]
    if rest:
        yield rest


def batches(documents, breakable):
    """Lists of (part of a text, whether it ends its document, client), about PIECE characters each."""
    batch, size = [], 0
    for pieces, client in documents:
        parts = parts_of(pieces, breakable)
        part = next(parts, None)
        while part is not None:
            following = next(parts, None)
            batch.append((part, following is None, client))
            size += len(part)
            part = following
            if size >= PIECE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def header(kind, count):
    """The header of a one-dimensional .npy file, HEADER bytes long for every count."""
    text = f"{{'descr': '{np.dtype(kind).str}', 'fortran_order': False, 'shape': ({count},), }}"
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + text.ljust(HEADER - 11).encode() + b"\n"


class Writer:
    """Writes tokens as they come, and at the end the arrays of documents."""

    def __init__(self, folder, kind, tokenizer, end):
        self.folder, self.kind, self.tokenizer, self.end = folder, np.dtype(kind), tokenizer, end
        self.count = 0
        self.ends, self.split, self.client = array.array("q", [0]), bytearray(), array.array("i")
        self.clients = {}
        self.is_new_folder = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path("tokens.npy.part"), "wb")
        self.file.write(header(self.kind, 0))

    def path(self, name):
        return self.folder / name

    def add(self, path, documents, split, breakable):
        for batch in batches(documents, breakable):
            encoded = self.tokenizer.encode_batch_fast([part for part, _, _ in batch], add_special_tokens=False)
            for encoding, (_, is_last, client) in zip(encoded, batch):
                ids = encoding.ids + ([self.end] if is_last and self.end is not None else [])
                self.file.write(np.array(ids, self.kind).data)
                self.count += len(ids)
                if is_last:
                    self.ends.append(self.count)
                    self.split.append(split)
                    self.client.append(-1 if client is None else self.clients.setdefault(client, len(self.clients)))

    def test_from(self, first, share):
        """The last documents from `first` on, with at least `share` of the tokens, become test documents."""
        limit = self.count - share * (self.count - self.ends[first])
        for document in range(first, len(self.split)):
            if self.ends[document + 1] > limit:
                self.split[document] = TEST

    def clients_by_size(self, split):
        """The names, and each document's client: those with the most training tokens first, so a run of few clients gets large ones."""
        client = np.array(self.client, "<i4")
        counted = (client >= 0) & (split == TRAIN)
        sizes = np.zeros(len(self.clients), np.int64)
        np.add.at(sizes, client[counted], np.diff(np.array(self.ends, np.int64))[counted])
        order = np.argsort(-sizes, kind="stable")
        place = np.empty(len(order) + 1, "<i4")
        place[order], place[-1] = np.arange(len(order)), -1  # the last is that of documents of no client
        names = list(self.clients)
        return [names[i] for i in order], place[client]

    def close(self, meta, with_clients):
        self.file.seek(0)
        self.file.write(header(self.kind, self.count))
        self.file.close()
        self.path("meta.json").unlink(missing_ok=True)  # a folder that is written in part has none
        arrays = {"documents": np.array(self.ends, "<i8"), "split": np.frombuffer(self.split, np.uint8)}
        if with_clients:
            names, arrays["client"] = self.clients_by_size(arrays["split"])
            meta = {**meta, "clients": names}
        else:
            self.path("client.npy").unlink(missing_ok=True)
        for name, values in arrays.items():
            np.save(self.path(f"{name}.npy"), values)
        self.path("tokens.npy.part").replace(self.path("tokens.npy"))
        with open(self.path("meta.json"), "w", encoding="utf-8") as file:
            json.dump(meta, file, ensure_ascii=False)
            file.write("\n")


def read_tokenizer(path):
    with opened(path) as file:
        text = file.read()
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the package raises no narrower class
        raise FileError(f"{path} cannot be read as a tokenizer.json: {' '.join(str(error).split())}", 3) from None


def vocabulary_of(tokenizer, arguments):
    """The vocabulary: one more than the largest token, or what --vocabulary says."""
    least = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if arguments.vocabulary is not None and arguments.vocabulary < least:
        raise FileError(f"--vocabulary is less than the {least} tokens of {arguments.tokenizer}")
    return arguments.vocabulary or least


def check(arguments):
    if not arguments.texts and not arguments.test:
        raise FileError("there is no text: name a file, or test files by --test")
    if arguments.test_share is not None and not 0 < arguments.test_share < 1:
        raise FileError("--test-share is a fraction between 0 and 1")
    if arguments.test_share is not None and arguments.documents == "file" and not arguments.csv:
        raise FileError("--test-share takes the last documents of each text: cut it by --documents line or paragraph")
    if arguments.csv and arguments.documents != "file":
        raise FileError("with --csv each row is a document: leave out --documents")
    if arguments.client == "speaker" and not arguments.csv and arguments.documents != "paragraph":
        raise FileError("--client speaker reads names at the beginning of paragraphs: add --documents paragraph")
    if not arguments.csv and arguments.client not in (None, "file", "speaker"):
        raise FileError(f"--client {arguments.client} is neither 'file' nor 'speaker'; columns are those of --csv")


def write(arguments):
    check(arguments)
    tokenizer = read_tokenizer(arguments.tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = vocabulary_of(tokenizer, arguments)
    end = None if arguments.end_token is None else tokenizer.token_to_id(arguments.end_token)
    if arguments.end_token is not None and end is None:
        raise FileError(f"{arguments.tokenizer} has no token '{arguments.end_token}'")
    for path in (*arguments.texts, *arguments.test):
        if not path.is_file():
            raise FileError(f"{path} is no file")
    breakable = is_breakable(tokenizer)
    out = Writer(arguments.to, np.uint16 if vocabulary <= 1 << 16 else np.int32, tokenizer, end)
    try:
        for path, split in itertools.chain(((path, TRAIN) for path in arguments.texts), ((path, TEST) for path in arguments.test)):
            first = len(out.split)
            out.add(path, documents_of(path, arguments), split, breakable)
            if split == TRAIN and arguments.test_share is not None:
                out.test_from(first, arguments.test_share)
        if out.count == 0:
            raise FileError("the texts have no tokens", 3)
        out.close({"vocabulary": vocabulary, "tokenizer": arguments.tokenizer.name, "eos": end}, arguments.client is not None)
    finally:
        with contextlib.suppress(OSError):  # on a full disk closing fails too, and the first error is the one to report
            out.file.close()
        out.path("tokens.npy.part").unlink(missing_ok=True)
        if out.is_new_folder:
            with contextlib.suppress(OSError):
                out.folder.rmdir()  # fails if it has the arrays
    clients = f", {len(out.clients)} clients" if arguments.client else ""
    print(f"{arguments.to}: {out.count:,} tokens ({out.kind}) in {len(out.split):,} documents, {sum(out.split):,} of them for tests"
          f"{clients}; vocabulary {vocabulary}")
    if not any(out.split):
        print("note: no document is for tests, and a run needs at least one window of them: add --test or --test-share", file=sys.stderr)
    elif all(out.split):
        print("note: every document is for tests, and a run needs at least one window for training: add texts without --test",
              file=sys.stderr)


@ends_well
def main():
    parser = Parser(prog="tokenize.py", usage="tokenize.py TEXT... --tokenizer FILE --to FOLDER [options]",
                    description=__doc__.split("\n\n")[0], epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", metavar="TEXT", nargs="*", type=pathlib.Path, help="texts of the training split")
    parser.add_argument("--tokenizer", metavar="FILE", type=pathlib.Path, required=True, help="a tokenizer.json")
    parser.add_argument("--to", metavar="FOLDER", type=pathlib.Path, required=True, help="the folder to write")
    parser.add_argument("--test", metavar="TEXT", nargs="+", type=pathlib.Path, default=[], help="texts of the test split")
    parser.add_argument("--test-share", metavar="F", type=float, help="the last documents of each TEXT are for tests")
    parser.add_argument("--documents", choices=("file", "line", "paragraph"), default="file", help="default: file")
    parser.add_argument("--csv", metavar="COLUMN", help="texts are tables; the column of the text")
    parser.add_argument("--client", metavar="WHOSE", help="a document's client: its file, its speaker ('NAME:' in the first line of a "
                        "paragraph), or a column of --csv")
    parser.add_argument("--end-token", metavar="TOKEN", help="put after each document; default: none")
    parser.add_argument("--vocabulary", metavar="N", type=int, help="of the model, if it has more than the tokenizer")
    arguments = parser.parse_args()
    with errors_end_the_tool("the output"):
        write(arguments)


if __name__ == "__main__":
    sys.exit(main())
