"""Wrapped rows, byte for byte: the kernel's characters go in verbatim, the files stay bare."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lem_train.curriculum.schema import DataConfig, KernelConfig, Wrap
from lem_train.data.conversation import Conversation, Message
from lem_train.data.jsonl import read_phase_data
from lem_train.data.kernel import Kernel, load_kernel, wrap
from lem_train.data.tokenize import ChatTokenizer
from lem_train.errors import DataError
from lem_train.hashing import sha256_bytes
from lem_train.weights.tiny import ARCHITECTURES

REPOSITORY = Path(__file__).parents[2]
NARRATIVE = REPOSITORY / "kernel" / "lek-1-kernel.txt"
AXIOMS = REPOSITORY / "kernel" / "axioms.json"
SIGNATURE = REPOSITORY / "kernel" / "lek-1-sig.txt"
SANDWICH, PREFIX, SYSTEM, NONE = get_args(Wrap)
TINY = Kernel("Be kind.", "Go in.", "0" * 64, "1" * 64)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def said(*messages: tuple[str, str]) -> Conversation:
    return Conversation(
        "P01",
        tuple(Message(role, text) for role, text in messages),  # type: ignore[arg-type]
        "train.jsonl:1",
    )


def shown(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def written(tmp_path: Path, text: bytes, signature: bytes = b"sig\n") -> Kernel:
    (tmp_path / "kernel").write_bytes(text)
    (tmp_path / "signature").write_bytes(signature)
    return load_kernel(KernelConfig(text=tmp_path / "kernel", signature=tmp_path / "signature"))


ROW = said(("user", "Who?"), ("assistant", "Me."))
TALK = said(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
LED = said(("system", "s"), ("user", "a"), ("assistant", "b"))


# -- the four wraps ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", [NARRATIVE, AXIOMS], ids=["narrative", "axioms"])
@pytest.mark.parametrize("how", get_args(Wrap))
def test_a_wrapped_row_is_the_files_bytes_around_the_probe(text: Path, how: Wrap) -> None:
    """Built here from the bytes on disk, less the newline that ends each file."""
    kernel, closing = text.read_bytes(), SIGNATURE.read_bytes()
    assert (kernel[-1:], closing[-1:]) == (b"\n", b"\n")
    kernel, closing = kernel[:-1], closing[:-1]
    expected: dict[str, list[tuple[str, bytes]]] = {
        "sandwich": [("user", kernel + b"\n\nWho?\n\n" + closing), ("assistant", b"Me.")],
        "prefix": [("user", kernel + b"\n\nWho?"), ("assistant", b"Me.")],
        "system": [("system", kernel), ("user", b"Who?"), ("assistant", b"Me.")],
        "none": [("user", b"Who?"), ("assistant", b"Me.")],
    }
    wrapped = wrap(ROW, how, load_kernel(KernelConfig(text=text, signature=SIGNATURE)))
    got = [(role, content.encode()) for role, content in shown(wrapped)]
    assert got == expected[how]


@pytest.mark.parametrize(
    ("how", "first"), [(SANDWICH, "Be kind.\n\na\n\nGo in."), (PREFIX, "Be kind.\n\na")]
)
def test_only_the_first_probe_of_a_talk_is_wrapped(how: Wrap, first: str) -> None:
    assert shown(wrap(TALK, how, TINY)) == [("user", first), *shown(TALK)[1:]]


def test_the_kernel_as_system_message_stands_before_the_whole_talk() -> None:
    assert shown(wrap(TALK, SYSTEM, TINY)) == [("system", "Be kind."), *shown(TALK)]


@pytest.mark.parametrize(
    ("how", "probe"), [(SANDWICH, "Be kind.\n\na\n\nGo in."), (PREFIX, "Be kind.\n\na")]
)
def test_a_rows_own_system_message_stays_and_its_first_probe_is_wrapped(
    how: Wrap, probe: str
) -> None:
    assert shown(wrap(LED, how, TINY)) == [("system", "s"), ("user", probe), ("assistant", "b")]


def test_a_second_system_message_is_refused_by_place() -> None:
    with pytest.raises(DataError) as caught:
        wrap(LED, SYSTEM, TINY)
    assert str(caught.value) == (
        "train.jsonl:1: expected no system message where wrap is system; the kernel stands there"
    )


@pytest.mark.parametrize("kernel", [TINY, None])
def test_a_bare_row_needs_no_kernel_and_takes_none(kernel: Kernel | None) -> None:
    assert wrap(LED, NONE, kernel) == LED


@pytest.mark.parametrize("how", [SANDWICH, PREFIX, SYSTEM])
def test_wrapping_without_a_kernel_is_a_fault_of_the_program(how: Wrap) -> None:
    with pytest.raises(ValueError, match="needs a kernel"):
        wrap(ROW, how, None)


@pytest.mark.parametrize("how", get_args(Wrap))
def test_the_row_keeps_its_id_and_place_and_stays_bare(how: Wrap) -> None:
    row = said(("user", "Who?"), ("assistant", "Me."))
    wrapped = wrap(row, how, TINY)
    assert (wrapped.id, wrapped.source) == ("P01", "train.jsonl:1")
    assert row == ROW


@given(TEXT, TEXT, TEXT)
def test_nothing_in_kernel_probe_or_signature_is_interpreted(
    text: str, probe: str, signature: str
) -> None:
    kernel = Kernel(text, signature, "", "")
    (user, _) = wrap(said(("user", probe), ("assistant", "ok")), SANDWICH, kernel).messages
    assert user.content == "\n\n".join([text, probe, signature])


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("how", [SANDWICH, PREFIX, SYSTEM])
@pytest.mark.parametrize("text", [NARRATIVE, AXIOMS], ids=["narrative", "axioms"])
def test_every_chat_template_passes_the_kernel_on_verbatim_and_once(
    tiny_chat: Callable[[str], ChatTokenizer], arch: str, how: Wrap, text: Path
) -> None:
    wrapped = wrap(ROW, how, load_kernel(KernelConfig(text=text, signature=SIGNATURE)))
    rendered = tiny_chat(arch).render(wrapped.messages).encode()
    assert rendered.count(text.read_bytes()[:-1]) == 1
    assert rendered.count(SIGNATURE.read_bytes()[:-1]) == (how == SANDWICH)


# -- the files ---------------------------------------------------------------------------------


def test_a_row_on_disk_stays_bare(tmp_path: Path) -> None:
    path, other = tmp_path / "train.jsonl", tmp_path / "valid.jsonl"
    path.write_text('{"prompt": "Who?", "completion": "Me."}\n')
    other.write_text('{"prompt": "Why?", "completion": "So."}\n')
    before = path.read_bytes(), other.read_bytes()
    data = read_phase_data(DataConfig(train=(path,), valid=(other,)))
    assert shown(wrap(data.train[0], SANDWICH, TINY))[0][1] == "Be kind.\n\nWho?\n\nGo in."
    assert (path.read_bytes(), other.read_bytes()) == before


@pytest.mark.parametrize("path", sorted((REPOSITORY / "training").rglob("*.jsonl")), ids=str)
def test_no_lesson_of_the_repository_holds_the_kernel(path: Path) -> None:
    """Not the signature, and not a paragraph of the narrative, nor an axiom of the JSON."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    text = "\n".join(_strings(rows))
    paragraphs = [p for p in NARRATIVE.read_text(encoding="utf-8").split("\n\n") if len(p) > 40]
    axioms = [s for s in _strings(json.loads(AXIOMS.read_text(encoding="utf-8"))) if len(s) > 60]
    assert paragraphs
    assert axioms
    for secret in (SIGNATURE.read_text(encoding="utf-8").strip(), *paragraphs, *axioms):
        assert secret.strip() not in text


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _strings(item)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\n", "a"),
        (b"a", "a"),
        (b"a\n\n", "a\n"),
        (b" \ta \n", " \ta "),
        (b"a\r\nb\n", "a\r\nb"),
        ("Née – ✓ e\u0301\u2028 🙂\n".encode(), "Née – ✓ e\u0301\u2028 🙂"),
        (b'{"b": 1,  "a": 1.0, "b": "\\u00e9"}\n', '{"b": 1,  "a": 1.0, "b": "\\u00e9"}'),
    ],
)
def test_one_newline_at_the_end_is_the_files_and_the_rest_is_the_kernels(
    tmp_path: Path, data: bytes, text: str
) -> None:
    kernel = written(tmp_path, data, data)
    assert (kernel.text, kernel.signature) == (text, text)


def test_the_kernels_hash_covers_every_byte_of_both_files(tmp_path: Path) -> None:
    one = written(tmp_path, b"kernel\n", b"sig\n").sha256("sandwich")
    digests = [sha256_bytes(b"kernel\n"), sha256_bytes(b"sig\n")]
    assert one == sha256_bytes(f'["{digests[0]}","{digests[1]}"]'.encode())
    others = [(b"kernel", b"sig\n"), (b"kernel\n", b"sig"), (b"sig\n", b"kernel\n")]
    assert one not in {written(tmp_path, *other).sha256("sandwich") for other in others}


def test_only_a_sandwich_depends_on_the_signature(tmp_path: Path) -> None:
    one, other = (written(tmp_path, b"kernel\n", line) for line in (b"sig\n", b"other\n"))
    assert one.sha256("sandwich") != other.sha256("sandwich")
    for how in ("prefix", "system"):
        assert one.sha256(how) == other.sha256(how) == sha256_bytes(b"kernel\n")
    assert one.sha256("none") is None


@pytest.mark.parametrize("which", ["kernel", "signature"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"caf\xe9\n", "expected UTF-8 (invalid continuation byte at byte 3)"),
        ("kernel\n".encode("utf-16"), "expected UTF-8 (invalid start byte at byte 0)"),
    ],
    ids=["missing", "latin-1", "UTF-16"],
)
def test_a_kernel_file_that_cannot_be_used_is_named(
    tmp_path: Path, which: str, data: bytes | None, reason: str
) -> None:
    files = {"kernel": tmp_path / "kernel", "signature": tmp_path / "signature"}
    for name, path in files.items():
        content = data if name == which else b"fine\n"
        if content is not None:
            path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_kernel(KernelConfig(text=files["kernel"], signature=files["signature"]))
    assert str(caught.value) == f"the kernel cannot be used:\n  {files[which]}: {reason}"


# -- faults found, each with the behaviour that is expected ------------------------------------


@pytest.mark.parametrize(
    ("text", "signature"), [(b"", b"sig\n"), (b"\n", b"sig\n"), (b"kernel\n", b""), (b" \n", b" ")]
)
def test_an_empty_kernel_or_signature_is_refused(
    tmp_path: Path, text: bytes, signature: bytes
) -> None:
    with pytest.raises(DataError):
        written(tmp_path, text, signature)


def test_a_kernel_with_a_byte_order_mark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="byte order mark"):
        written(tmp_path, b"\xef\xbb\xbfkernel\n")


def test_the_newline_that_ends_a_crlf_file_is_not_the_kernels(tmp_path: Path) -> None:
    kernel = written(tmp_path, b"a\r\nb\r\n", b"sig\r\n")
    assert (kernel.text, kernel.signature) == ("a\r\nb", "sig")


def test_both_missing_kernel_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_kernel(KernelConfig(text=tmp_path / "kernel", signature=tmp_path / "signature"))
    assert str(tmp_path / "kernel") in str(caught.value)
    assert str(tmp_path / "signature") in str(caught.value)
