"""Sources: the records that are read, and one line that names file, line and field of each record that is refused."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest
import zstandard

from msm_jax.data import files, sources
from msm_jax.errors import InputError

GOOD_DOCUMENT = {"text": "fine"}
GOOD_CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def _chat(*messages: object) -> bytes:
    return json.dumps({"messages": list(messages)}).encode()


def _message(role: object, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


USER = _message("user", "q")
ASSISTANT = _message("assistant", "a")
SYSTEM = _message("system", "s")

BAD_DOCUMENTS = {
    "bad JSON": (b'{"text": "x"', "bad JSON"),
    "deep JSON": (b"[" * 100_000, "bad JSON"),
    "not an object": (b'["text"]', "not an object"),
    "missing key": (b'{"txt": "x"}', 'field "text" is missing'),
    "a chat": (json.dumps(GOOD_CHAT).encode(), 'kind="chats"'),
    "empty text": (b'{"text": ""}', 'field "text" is empty'),
    "blank text": (b'{"text": " \\n "}', 'field "text" is empty'),
    "text is a number": (b'{"text": 3}', 'field "text" is a number'),
    "text is null": (b'{"text": null}', 'field "text" is null'),
    "meta is a list": (b'{"text": "x", "meta": []}', 'field "meta" is a list'),
    "not UTF-8": (b'{"text": "caf\xe9"}', "not UTF-8"),
    "half a surrogate pair": (b'{"text": "\\ud800"}', 'field "text" holds half of a surrogate'),
}
BAD_CHATS = {
    "bad JSON": (b"{", "bad JSON"),
    "missing key": (b"{}", 'field "messages" is missing'),
    "a document": (b'{"text": "x"}', 'kind="documents"'),
    "messages is an object": (b'{"messages": {}}', 'field "messages" must be'),
    "no message": (_chat(), 'field "messages" must be'),
    "message is a string": (_chat("hi"), 'field "messages[0]" must be'),
    "no role": (_chat({"content": "x"}), 'field "messages[0].role" is missing'),
    "no content": (_chat(USER, {"role": "assistant"}), 'field "messages[1].content" is missing'),
    "unknown role": (_chat(USER, _message("bot", "a")), 'field "messages[1].role" is "bot"'),
    "role is a list": (_chat(_message(["user"], "a")), 'field "messages[0].role" is ["user"]'),
    "content is a list": (_chat(USER, _message("assistant", ["a"])), 'field "messages[1].content" is a list'),
    "empty content": (_chat(USER, _message("assistant", " ")), 'field "messages[1].content" is empty'),
    "two system messages": (_chat(SYSTEM, SYSTEM, USER, ASSISTANT), 'field "messages[1]" is a second system'),
    "late system message": (_chat(USER, SYSTEM, ASSISTANT), 'field "messages[1]" is a system message'),
    "no assistant turn": (_chat(SYSTEM, USER), "no assistant turn"),
    "not UTF-8": (b'{"messages": "\xff"}', "not UTF-8"),
}
BAD = [pytest.param("documents", *case, id=f"documents-{name}") for name, case in BAD_DOCUMENTS.items()] + [
    pytest.param("chats", *case, id=f"chats-{name}") for name, case in BAD_CHATS.items()
]


@pytest.mark.parametrize(("kind", "line", "message"), BAD)
def test_bad_line_is_refused_by_file_line_and_field(
    tmp_path: Path, kind: str, line: bytes, message: str
) -> None:
    good = GOOD_DOCUMENT if kind == "documents" else GOOD_CHAT
    read = sources.iter_documents if kind == "documents" else sources.iter_chats
    file = tmp_path / "data.jsonl"
    # The blank line counts as a line.
    file.write_bytes(json.dumps(good).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(InputError) as error:
        list(read(str(file)))
    text = str(error.value)
    assert text.startswith(f"{file}:3: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{file}:1: the file is empty")):
        list(sources.iter_documents(str(file)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "path is empty"),
        ("{dir}/missing.jsonl", "{dir}/missing.jsonl: no such file"),
        ("{dir}/*.jsonl", "{dir}/*.jsonl: no file matches"),
        ("{dir}", "{dir}: no such file"),
        ("{dir}/data.txt", "{dir}/data.txt: not a data file"),
    ],
)
def test_bad_path_is_refused(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "data.txt").write_text("x")
    with pytest.raises(InputError, match="^" + re.escape(message.format(dir=tmp_path))):
        list(sources.iter_documents(path.format(dir=tmp_path)))


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("cut", [False, True])
def test_damaged_compression_is_refused_by_line(tmp_path: Path, suffix: str, cut: bool) -> None:
    lines = b"".join(
        json.dumps({"text": f"{hashlib.sha256(bytes([i])).hexdigest()}"}).encode() + b"\n" for i in range(99)
    )
    whole = gzip.compress(lines) if suffix.endswith("gz") else zstandard.compress(lines)
    file = tmp_path / f"data{suffix}"
    file.write_bytes(whole[: len(whole) // 2] if cut else lines)
    with pytest.raises(InputError, match=re.escape(str(file)) + r":\d+: "):
        list(sources.iter_documents(str(file)))


def test_plain_and_compressed_files_read_alike(tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"text": f"text {i} é"}, ensure_ascii=False) + "\n" for i in range(50)
    ).encode()
    half = len(lines) // 2
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines[:half]) + gzip.compress(lines[half:]))
    (tmp_path / "a.jsonl.zst").write_bytes(
        zstandard.compress(lines[:half]) + zstandard.compress(lines[half:])
    )
    plain, gz, zst = (list(sources.iter_documents(str(tmp_path / f"a.jsonl{s}"))) for s in ("", ".gz", ".zst"))
    assert [d.text for d in plain] == [f"text {i} é" for i in range(50)]
    assert [d.text for d in gz] == [d.text for d in plain] == [d.text for d in zst]


def test_both_document_shapes_and_meta(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"text": "a", "meta": {"spec": "x"}}, {"text": "b", "source": "s", "domain": "d"}]
    # A byte order mark at the start of a file, as some editors leave it, is no part of the data.
    file.write_bytes(b"\xef\xbb\xbf" + "".join(json.dumps(r) + "\r\n" for r in rows).encode())
    assert list(sources.iter_documents(str(file))) == [
        sources.Document("a", {"spec": "x"}, f"{file}:1"),
        sources.Document("b", {"source": "s", "domain": "d"}, f"{file}:2"),
    ]


def test_chats_keep_roles_contents_and_meta(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    messages = [SYSTEM, USER, ASSISTANT, USER]
    file.write_text(json.dumps({"messages": [{**m, "extra": 1} for m in messages], "meta": {"a": 1}}))
    assert list(sources.iter_chats(str(file))) == [sources.Chat(tuple(messages), {"a": 1}, f"{file}:1")]


def test_paths_may_be_lists_and_globs_and_are_sorted(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    by_list = f"{tmp_path}/c.jsonl, {tmp_path}/a.jsonl,{tmp_path}/[ab].jsonl"
    assert [d.text for d in sources.iter_documents(by_list)] == ["a", "b", "c"]
    assert files.resolve(by_list) == files.resolve(f"{tmp_path}/*.jsonl")


def test_texts_of_documents_and_of_chats(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text, "source": "s"}) + "\n" for text in "xy"))
    (tmp_path / "b.jsonl").write_text(json.dumps({"messages": [SYSTEM, USER, ASSISTANT], "meta": {}}))
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "z", "messages": []}))
    assert list(sources.iter_texts(f"{tmp_path}/*.jsonl")) == ["x", "y", "s", "q", "a", "z"]
    for first, second in ((GOOD_DOCUMENT, GOOD_CHAT), (GOOD_CHAT, GOOD_DOCUMENT)):
        (tmp_path / "a.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
        with pytest.raises(InputError, match=r"a\.jsonl:2: field .* is missing; this is a "):
            list(sources.iter_texts(f"{tmp_path}/a.jsonl"))
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r'a\.jsonl:1: field "text" is missing; add it'):
        list(sources.iter_texts(f"{tmp_path}/a.jsonl"))


def test_data_sha256_follows_the_bytes_and_file_borders(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_bytes(b"12")
    b.write_bytes(b"3")
    first = sources.data_sha256(f"{tmp_path}/*.jsonl")
    assert sources.data_sha256([str(b), str(a)]) == first
    a.write_bytes(b"1")
    b.write_bytes(b"23")
    assert sources.data_sha256(f"{tmp_path}/*.jsonl") != first
