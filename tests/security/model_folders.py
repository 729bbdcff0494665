"""Model folders of a stranger: each is a good one with one thing changed."""

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

Change = Callable[[Path], object]


def edit(name: str, **fields: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def write(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def tokenizer(**fields: Any) -> Change:
    return edit("tokenizer.json", **fields)


def replace_all(times: int, steps: int) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * times}
    return {"type": "Sequence", "normalizers": [step] * steps}


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def added(number: int) -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": 99 + n, "content": f"<{n}>", "special": True, **flags} for n in range(number)]


def charsmap(replacement: bytes) -> dict[str, str]:
    table = (4).to_bytes(4, "little") + bytes(4) + replacement + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def safetensors(
    header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None
) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(start: int, end: int, *, shape: tuple[int, ...] = (4,)) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def weights_without(name: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file({key: value for key, value in load_file(path).items() if key != name}, path)

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def index_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    shutil.copy(folder / "x.safetensors", folder.parent / "elsewhere.safetensors")
    names = {"embeddings.word_embeddings.weight": "../elsewhere.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def link_to(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


EVIL_KERNEL = "kernels-community/evil"
HOSTILE: dict[str, tuple[Change, str]] = {
    # code
    "auto_map of a config": (edit("config.json", auto_map={"AutoModel": "evil.Model"}), "auto_map"),
    "auto_map of a tokenizer": (
        edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}),
        "auto_map",
    ),
    "attention of the hub": (
        edit("config.json", attn_implementation=EVIL_KERNEL),
        "attn_implementation",
    ),
    "attention of the hub, inside": (
        edit("config.json", _attn_implementation=EVIL_KERNEL),
        "_attn_implementation",
    ),
    "quantization": (
        edit("config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "quantization_config",
    ),
    "class of a tokenizer": (
        edit("tokenizer_config.json", tokenizer_class="EvilTokenizer"),
        "tokenizer_class",
    ),
    "class that is no text": (edit("tokenizer_config.json", tokenizer_class=[]), "tokenizer_class"),
    "family": (edit("config.json", model_type="evil"), "not allowed"),
    # files that lead elsewhere
    "adapter": (
        write("adapter_config.json", '{"base_model_name_or_path": "/tmp/other"}'),
        "adapter_config",
    ),
    "index that leads elsewhere": (index_elsewhere, "names '../elsewhere.safetensors'"),
    "index of no names": (write("model.safetensors.index.json", '{"weight_map": [7]}'), "names"),
    "link to a system file": (link_to("vocab.txt", "/etc/passwd"), "outside the folder"),
    "link to a device": (link_to("model.safetensors", "/dev/zero"), "outside the folder"),
    "link to itself": (link_to("tokenizer.json", "tokenizer.json"), "no regular file"),
    "pipe": (pipe, "no regular file"),
    # headers of weights
    "header of a terabyte": (
        write("model.safetensors", safetensors(b"{}", length=2**40)),
        "header of 1099511627776",
    ),
    "header without an end": (write("model.safetensors", safetensors(b'{"a":')), "no safetensors"),
    "weights of nothing": (write("model.safetensors", b""), "no safetensors"),
    "tensors that overlap": (
        write(
            "model.safetensors",
            safetensors({"a": tensor(0, 16), "b": tensor(8, 24)}, data=bytes(24)),
        ),
        "no safetensors",
    ),
    "tensor behind the end": (
        write("model.safetensors", safetensors({"a": tensor(0, 1 << 40)}, data=bytes(16))),
        "no safetensors",
    ),
    "tensor of a negative place": (
        write("model.safetensors", safetensors({"a": tensor(-16, 0)}, data=bytes(16))),
        "no safetensors",
    ),
    "shape that overflows": (
        write(
            "model.safetensors",
            safetensors({"a": tensor(0, 16, shape=(2**32, 2**32, 2**32))}, data=bytes(16)),
        ),
        "no safetensors",
    ),
    # configurations that ask for more than there is
    "layers": (edit("config.json", num_hidden_layers=100_000), "num_hidden_layers 100000"),
    "layers that are no number": (edit("config.json", num_hidden_layers="many"), "'many'"),
    "config of brackets": (
        write("config.json", '{"model_type": "bert", "x":' + "[" * 100_000 + "]" * 100_000 + "}"),
        "is not JSON",
    ),
    "config of a million values": (
        write("config.json", json.dumps({"model_type": "bert", "x": [0] * 1_000_000})),
        "more than 200000 values",
    ),
    "config that is a list": (write("config.json", "[]"), "not a JSON object"),
    # tokenizers
    "tokenizer of 65 MiB": (
        lambda folder: os.truncate(folder / "tokenizer.json", 65 << 20),
        "bytes, expected at most",
    ),
    "added tokens": (tokenizer(added_tokens=added(20_001)), "adds 20001 tokens"),
    "added tokens of the config": (
        edit("tokenizer_config.json", extra_special_tokens=["x"] * 20_001),
        "adds 20001 tokens",
    ),
    "added tokens beside it": (
        write("added_tokens.json", json.dumps({f"x{n}": n for n in range(20_001)})),
        "adds 20001 tokens",
    ),
    "text that grows": (tokenizer(normalizer=replace_all(10, 8)), "100000000 times longer"),
    "letter that grows": (tokenizer(normalizer=charsmap(b"e" * 1_000)), "by 1000 bytes"),
    "table that is no table": (
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "%"}),
        "damaged precompiled_charsmap",
    ),
    "ten thousand steps": (tokenizer(normalizer=replace_all(1, 9_000)), "more than|steps"),
    "pattern within a pattern": (tokenizer(pre_tokenizer=split("(e+)+$")), "repeat within"),
    "pattern with a choice": (tokenizer(pre_tokenizer=split("(e|ee)*$")), "repeat within"),
    "pattern hidden in a group": (tokenizer(pre_tokenizer=split("(?:(?:e{2,}))+$")), "repeat wit"),
    "pattern of many ends": (tokenizer(pre_tokenizer=split("e*e*e*e*e*!")), "repeats in a row"),
    "pattern of two ends": (tokenizer(pre_tokenizer=split("[ef]*[eg]*!")), "repeats in a row"),
    "pattern of long bounds": (tokenizer(pre_tokenizer=split("e{0,999}e{1,999}!")), "repeats in a"),
    "pattern of small choices": (tokenizer(pre_tokenizer=split("e?" * 30 + "e{30}")), "repeats in"),
    "pattern of repeated choices": (tokenizer(pre_tokenizer=split("(?:e?){30}!")), "repeat within"),
    "pattern of groups without end": (tokenizer(pre_tokenizer=split("(" * 1_900)), "repeat within"),
    "pattern of a mile": (tokenizer(pre_tokenizer=split("e" * 3_000)), "3000 characters"),
    "brackets": (
        write("tokenizer.json", '{"normalizer":' + "[" * 100_000 + "]" * 100_000 + "}"),
        "is not JSON",
    ),
}
"""Name -> what is changed, and what the refusal says."""
TOO_LARGE: dict[str, tuple[Change, str]] = {
    "words that the weights lack": (
        both(
            edit("config.json", vocab_size=500_000_000),
            weights_without("embeddings.word_embeddings.weight"),
        ),
        "describes 8000",
    ),
    "width": (
        edit("config.json", hidden_size=20_000, intermediate_size=200_000),
        "describes",
    ),
    "heads that do not divide": (edit("config.json", num_attention_heads=7), "cannot load it"),
    "width that is no number": (edit("config.json", hidden_size="wide"), "cannot load it"),
}
"""Known only when the network is described."""
