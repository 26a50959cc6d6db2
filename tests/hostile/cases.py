"""The hostile cases as data: a new case is a new line. ``fuzz.py`` combines them at random."""

from __future__ import annotations

import datetime
import io

import numpy as np

ESCAPE = "\x1b]0;title\x07\x1b[31mred"

CELLS = {  # a name -> a cell, for any column of any table
    "none": None, "empty": "", "space": "  ", "zero": 0, "negative": -1, "true": True, "float": 1.5, "whole float": 12.0,
    "nan": float("nan"), "infinity": float("inf"), "huge float": 1e308, "huge int": 2**63, "6000 digits": "9" * 6000,
    "long text": "x" * 100_000, "escape": ESCAPE, "nul": "a\x00b", "newline": "a\nb", "tab": "a\tb", "quote": 'a"b', "bars": "a|b|c",
    "surrogate": "\ud800", "rtl": "\u202eabc", "emoji": "👟", "combining": "é" * 50, "zwj": "a\u200db", "bom": "\ufeffa",
    "list": ["a", "b"], "empty list": [], "nested list": [["a"]], "list of none": [None], "dict": {"a": 1}, "deep json": "[" * 10_000,
    "big json": "[" + "9" * 6000 + "]", "json text": '["i1", "i2"]', "broken json": '["i1", ', "url": "http://10.0.0.1/x.jpg",
    "file url": "file:///etc/passwd", "traversal": "../../etc/passwd", "absolute": "/dev/zero", "long path": "p/" * 3000, "long name": "n" * 300,
    "formula": "=1+1", "html": "<script>alert(1)</script>", "markup": "[red]x[/] [/] [", "percent": "%s%n", "date": "31.12.2025",
    "year 0": "0000-01-01", "year 99999": "99999-01-01", "epoch": 1735689600, "epoch e20": 10**20, "price": "€3,50", "split": "dev",
}  # fmt: skip

COLUMNS = [  # table, column
    ("items", "item_id"), ("items", "title"), ("items", "price"), ("items", "image"), ("items", "category"),
    ("bundles", "bundle_id"), ("bundles", "item_ids"), ("bundles", "split"), ("bundles", "group"),
    ("interactions", "user_id"), ("interactions", "item_id"), ("interactions", "timestamp"),
]  # fmt: skip

HEADERS = [
    "",
    " ",
    ESCAPE,
    "a\x00",
    "item_id",
    "x" * 10_000,
    "\u202e",
    "[red]",
    '"',
    "é",
    "title",
    "名前",
]  # names of a column

BYTES = {  # a name -> the bytes of a whole file
    "nothing": b"", "newline": b"\n", "nul": b"\x00" * 100, "ones": b"\xff" * 100, "bom": b"\xef\xbb\xbf", "utf-16 bom": b"\xff\xfe",
    "half utf-16": b"\xff\xfea", "utf-32 bom": b"\xff\xfe\x00\x00a", "quote": b'item_id,title\n"a', "quotes": b'"' * 99, "commas": b"," * 1000,
    "header": b"item_id,title\n", "parquet head": b"PAR1", "parquet": b"PAR1" + b"\x00" * 50 + b"PAR1", "zip": b"PK\x03\x04" + b"\x00" * 40,
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.", "deep": b"[" * 20_000, "deep object": b'{"a":' * 20_000, "digits": b"9" * 6000,
    "json list": b"[1, 2, 3]", "json text": b'"x"', "json null": b"null", "json nan": b'{"item_id": NaN, "title": Infinity}',
    "twice": b"item_id,title\na,x\na,y\n", "same header": b"item_id,item_id\na,b\n", "ragged": b"item_id,title\na\nb,c,d,e\n",
    "sep line": b"sep=;\n", "odd sep": b"sep=\n", "sep quote": b'sep="\na"b\n', "latin": "item_id;title\na;caf\xe9\n".encode("latin-1"),
    "cr": b"item_id,title\ra,x\r", "long line": b"item_id,title\na," + b"x" * 200_000, "html": b"<!doctype html><html></html>", "gzip": b"\x1f\x8b\x08" + b"\x00" * 30,
    "elf": b"\x7fELF" + bytes(60), "arrow": b"ARROW1\x00\x00", "npy": b"\x93NUMPY\x01\x00", "json dict": b'{"#I": -1, "a": {}}',
}  # fmt: skip

ARGUMENTS = [  # for every option of every command
    "", " ", "-1", "0", "1.5", "1e999", "nan", "99999999999999999999", "x", "é", "\u202e", ESCAPE, "a\tb", "../..", "/", "x" * 300, "y" * 5000,
    "[red]", "%s", "{}", "--", "'", "a,b,,c", "=", "a=b=c", "\ud800",
]  # fmt: skip


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


def _header(text: str) -> bytes:
    body = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + b"\x00" * 32


ARRAYS = {  # .npy files of others
    "0-d": _npy(np.array(1)), "1-d": _npy(np.ones(3)), "empty": _npy(np.ones((0, 4))), "wide 0": _npy(np.ones((3, 0))), "text": _npy(np.array(["a", "b"])),
    "complex": _npy(np.ones((3, 2), complex)), "bool": _npy(np.ones((3, 2), bool)), "dates": _npy(np.array([datetime.date(2025, 1, 1)], "datetime64[D]")),
    "4-d": _npy(np.ones((2, 2, 2, 2))), "nan": _npy(np.full((3, 4), np.nan)), "infinite": _npy(np.full((3, 4), np.inf)), "npz": _npz(), "fortran": _npy(np.asfortranarray(np.ones((3, 4)))),
    "negative": _header("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4)}"), "huge": _header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 999)}"),
    "broken header": _header("{'descr': ("), "code": _header("__import__('os').system('true')"), "object": _header("{'descr': '|O', 'fortran_order': False, 'shape': (3,)}"),
    "record": _npy(np.zeros(3, [("a", "f4"), ("b", "i4")])), "cut": _npy(np.ones((30, 40)))[:200],
}  # fmt: skip
