"""What `lem publish` refuses, and how a folder is held against what is on the hub. No network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published import (
    FINGERPRINT,
    KERNEL,
    phase,
    write_dataset,
    write_gguf,
    write_model,
    write_safetensors,
)

from lem_train.data.kernel import Kernel
from lem_train.data.leaks import leaks
from lem_train.errors import ConfigError, LemError, PublishError
from lem_train.export.gguf.metadata import header_texts
from lem_train.export.publish import (
    Publication,
    Remote,
    RemoteFile,
    check_repo,
    compare,
    examine,
    free_tag,
    git_blob,
    refuse,
)
from lem_train.hashing import sha256_file
from lem_train.report.publish import card_of, proposal_json, proposal_lines
from lem_train.run.origin import Exported, kernel_marks
from lem_train.run.records import Learned, PhaseInputs, PhaseRecord, Scores, Verdict

FAILED = Verdict(requirement="grammar >= 30", value=12.0, bound=30.0, passed=False)
HEAD = "a" * 40
LINES = KERNEL.replace(" ", "\n")


def look_into(folder: Path) -> Publication:
    return examine(folder, card_of)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def there(publication: Publication, **changes: bytes | None) -> dict[str, RemoteFile]:
    """The same files on the hub, in git; a change gives a file other bytes, None removes it."""
    files = {
        file.name: RemoteFile(file.nbytes, None, git_blob(file.path)) for file in publication.files
    }
    for name, data in changes.items():
        files.pop(name, None)
        if data is not None:
            files[name] = RemoteFile(len(data), None, f"other {name}")
    return files


# -- the folder --------------------------------------------------------------------------------


def test_a_folder_as_lem_writes_it_has_every_file_with_its_hash(model: Path) -> None:
    publication = look_into(model)
    assert publication.problems == ()
    assert (publication.kind, publication.fingerprint) == ("model", FINGERPRINT)
    assert {file.name: file.sha256 for file in publication.files} == {
        path.name: sha256_file(path) for path in model.iterdir()
    }
    assert not publication.by_hand


def test_a_dataset_is_known_by_its_record(tmp_path: Path) -> None:
    publication = look_into(write_dataset(tmp_path / "rows"))
    assert (publication.kind, publication.problems) == ("dataset", ())
    assert "data/train-00000-of-00001.parquet" in [file.name for file in publication.files]
    assert not publication.by_hand


Spoil = Callable[[Path], object]


def _link(folder: Path) -> None:
    (folder / "other.json").symlink_to(folder.parent / "other.json")


REFUSED: dict[str, tuple[Spoil, str]] = {
    "a link": (_link, "other.json: expected a file of its own, found a link to "),
    "hidden": (
        lambda f: (f / ".env").write_text("A=1"),
        ".env: expected no hidden file",
    ),
    "a pickle": (
        lambda f: (f / "pytorch_model.bin").write_bytes(b"\x80\x04"),
        "pytorch_model.bin: expected no pickle",
    ),
    "a name for the card": (
        lambda f: (f / "MODEL_CARD.md").write_text("# a card\n"),
        "MODEL_CARD.md: expected another name",
    ),
    "a pipe": (lambda f: os.mkfifo(f / "pipe"), "pipe: expected a file or a folder"),
    "a name of controls": (
        lambda f: (f / "a\x1bb.txt").write_text("x"),
        "'a\\x1bb.txt': expected a name that can be written",
    ),
    "a token": (
        lambda f: (f / "notes.md").write_text(f"one\ntwo hf_{'aB3' * 12}\n"),
        "notes.md:2: a Hugging Face token",
    ),
    "a key in a folder below": (
        lambda f: ((f / "sub").mkdir(), (f / "sub" / "x.yaml").write_text("AKIAABCDEFGHIJKLMNOP")),
        "sub/x.yaml:1: an AWS key",
    ),
    "a local path": (
        lambda f: (f / "config.json").write_text('{"model_type": "x",\n"from": "/home/ann/m"}'),
        "config.json:2: a path of a machine, /home/ann/m",
    ),
    "the kernel as a template": (
        lambda f: (f / "chat_template.jinja").write_text(f"{{# who #}}\n\n{KERNEL}\n"),
        "chat_template.jinja:3: the kernel stands in a prompt or template",
    ),
    "the kernel in a Modelfile": (
        lambda f: (f / "Modelfile").write_text(f'FROM ./x\nSYSTEM """{KERNEL.upper()}"""\n'),
        "Modelfile:2: the kernel stands",
    ),
    "the kernel in JSON": (
        lambda f: (f / "tokenizer_config.json").write_text(
            json.dumps({"chat_template": [{"name": "x", "template": f"{{}}\n{KERNEL}"}]})
        ),
        "tokenizer_config.json (chat_template[0].template): the kernel stands",
    ),
    "the kernel beside a model": (
        lambda f: (f / "config.json").write_text(json.dumps({"model": {"system": KERNEL}})),
        "config.json (model.system): the kernel stands",
    ),
    "the kernel in a list": (
        lambda f: (f / "chat.json").write_text(json.dumps([{"content": LINES}])),
        "chat.json ([0].content): the kernel stands",
    ),
    "the kernel in JSON in JSON": (
        lambda f: (f / "x.json").write_text(json.dumps({"chat": json.dumps({"t": LINES})})),
        "x.json (chat): the kernel stands",
    ),
    "the kernel as a piece that is added": (
        lambda f: (f / "tokenizer.json").write_text(
            json.dumps({"added_tokens": [{"content": KERNEL}], "model": {"vocab": {"a": 0}}})
        ),
        "tokenizer.json (added_tokens[0].content): the kernel stands",
    ),
    "the kernel in a template's text": (
        lambda f: (f / "chat_template.jinja").write_text(f"{{{{ {json.dumps(LINES)} }}}}"),
        "chat_template.jinja:1: the kernel stands",
    ),
    "the kernel with marks that nobody sees": (
        lambda f: (f / "chat_template.jinja").write_text(KERNEL.replace("e", "e\u00ad")),
        "chat_template.jinja:1: the kernel stands",
    ),
    "the kernel in wide signs": (
        lambda f: (f / "chat_template.jinja").write_bytes(KERNEL.encode("utf-16")),
        "chat_template.jinja:1: the kernel stands",
    ),
    "a token in wide signs": (
        lambda f: (f / "notes.txt").write_bytes(f"hf_{'aB3' * 12}".encode("utf-16")),
        "notes.txt:1: a Hugging Face token",
    ),
    "a path that JSON writes otherwise": (
        lambda f: (f / "config.json").write_text('{"a": 1,\n"from": "\\/home\\u002fann"}'),
        "config.json:2: a path of a machine, /home/ann",
    ),
    "a token as a name": (
        lambda f: (f / f"hf_{'aB3' * 12}.txt").write_text("x"),
        "a Hugging Face token in its name; rename it",
    ),
    "a pickle in capitals": (
        lambda f: (f / "weights.NPZ").write_bytes(b"PK\3\4"),
        "weights.NPZ: expected no pickle",
    ),
    "an archive": (
        lambda f: (f / "all.zip").write_bytes(b"PK\3\4"),
        "all.zip: expected files that can be looked into, found an archive",
    ),
    "controls within JSON": (
        lambda f: (f / "config.json").write_text(json.dumps({"\x1b[2J": KERNEL})),
        "'config.json (\\x1b[2J): the kernel stands",
    ),
    "a header without end": (
        lambda f: (
            (f / "model-00001-of-00002.safetensors").write_bytes((1 << 28).to_bytes(8, "little")),
            os.truncate(f / "model-00001-of-00002.safetensors", 1 << 29),
        ),
        "expected a whole safetensors file",
    ),
    "changed weights": (
        lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}"),
        "model-00001-of-00002.safetensors: expected sha256 ",
    ),
    "missing weights": (
        lambda f: (f / "model-00002-of-00002.safetensors").unlink(),
        "model-00002-of-00002.safetensors: expected beside lem.json, which names it, found none",
    ),
    "weights of another": (
        lambda f: (f / "more.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}"),
        "more.safetensors: expected only files that lem.json names",
    ),
    "broken weights": (
        lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(b"\xff" * 20),
        "expected a whole safetensors file",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_must_not_be_published_is_named_with_its_place(model: Path, case: str) -> None:
    spoil, message = REFUSED[case]
    spoil(model)
    publication = look_into(model)
    assert any(
        problem.startswith(message) or message in problem for problem in publication.problems
    )
    with pytest.raises(PublishError, match="not published, because"):
        refuse(compare(publication, "me/it", False, None))


@pytest.mark.parametrize(
    "how", [{"dtype": "float16"}, {"bits": 4, "dtype": "bfloat16"}, {"scales": {"ethics": 0.5}}]
)
def test_weights_that_no_phase_handed_on_are_known_too(tmp_path: Path, how: dict[str, Any]) -> None:
    bare = write_model(tmp_path / "m", **how)
    assert any("has no hashes of these weights" in note for note in look_into(bare).notices)
    shards = {path.name: sha256_file(path) for path in bare.glob("*.safetensors")}
    model = write_model(tmp_path / "m", weights=shards, **how)
    assert look_into(model).problems == ()
    write_safetensors(model / "model-00001-of-00002.safetensors", 9001)
    (problem,) = look_into(model).problems
    assert problem.startswith("model-00001-of-00002.safetensors: expected sha256 ")


def test_everything_is_said_at_once(model: Path) -> None:
    for name in ("a token", "a local path", "a pickle", "the kernel as a template", "hidden"):
        REFUSED[name][0](model)
    problems = "\n".join(look_into(model).problems)
    for name in ("a token", "a local path", "a pickle", "the kernel as a template", "hidden"):
        assert REFUSED[name][1] in problems


def test_a_secret_is_named_and_never_shown(model: Path) -> None:
    secret = f"hf_{'aB3' * 12}"
    (model / "notes.txt").write_text(secret)
    assert secret not in "\n".join(look_into(model).problems)


def test_of_a_file_full_of_paths_a_few_are_shown(model: Path) -> None:
    (model / "notes.txt").write_text("/home/ann/x\n" * 300)
    problems = look_into(model).problems
    assert len(problems) == 6
    assert problems[-1] == "notes.txt: and 295 more of the kind"


def test_a_readme_may_quote_the_kernel(model: Path) -> None:
    with (model / "README.md").open("a") as file:
        file.write(KERNEL)
    publication = look_into(model)
    assert publication.problems == ()
    assert publication.by_hand


def test_what_belongs_to_nobody_is_left_out_with_a_word(model: Path) -> None:
    (model / ".DS_Store").write_bytes(b"x")
    (model / ".git").mkdir()
    (model / ".git" / "config").write_text("url = /home/ann/x")
    publication = look_into(model)
    assert publication.problems == ()
    assert publication.left_out == (".DS_Store", ".git")
    assert "left out: .DS_Store, .git" in publication.notices


def test_a_file_beyond_the_hub_s_limit_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lem_train.export.contents._MOST_BYTES", 8000)
    (problem,) = look_into(model).problems
    assert problem.startswith("model-00001-of-00002.safetensors: expected at most 50 GB")


def test_a_file_that_could_not_be_looked_through_is_refused_unread(model: Path) -> None:
    (model / "notes.txt").touch()
    os.truncate(model / "notes.txt", 1 << 40)  # reading it would take a day
    os.truncate(model / "model-00001-of-00002.safetensors", 1 << 40)
    first, second = look_into(model).problems
    assert first.startswith("model-00001-of-00002.safetensors: expected at most 50 GB")
    assert second.startswith("notes.txt: expected at most 50 GB")
    os.truncate(model / "notes.txt", 600_000_000)
    assert "notes.txt: expected at most 500 MB in a file that is no weights" in "\n".join(
        look_into(model).problems
    )


def test_a_tokenizer_s_own_pieces_are_no_prompt(model: Path) -> None:
    tokenizer = {"model": {"vocab": {"a": 0}, "merges": [KERNEL]}}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert look_into(model).problems == ()


def test_json_that_is_nested_very_deep_is_read_as_text(model: Path) -> None:
    for depth in range(900, 1000, 5):  # from some depth on it can be read, but not gone through
        (model / "x.json").write_text("[" * depth + json.dumps(KERNEL) + "]" * depth)
        (problem,) = look_into(model).problems
        assert "the kernel stands in a prompt" in problem


def test_a_folder_that_lem_did_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="expected a folder that lem wrote, found none"):
        look_into(tmp_path / "nowhere")
    with pytest.raises(PublishError, match=r"lem\.json: expected .*, found an empty folder"):
        look_into(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PublishError, match="only what lem made can be vouched for"):
        look_into(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "dataset"}', '{"record_version": 3}'])
def test_a_damaged_record_is_refused(model: Path, text: str) -> None:
    (model / "lem.json").write_text(text)
    with pytest.raises(LemError, match=r"lem\.json"):
        look_into(model)


# -- gates and kernels ---------------------------------------------------------------------------


def test_a_gate_that_failed_keeps_a_model_back_and_an_accepted_one_does_not(
    tmp_path: Path,
) -> None:
    fused = {"model-00001-of-00001.safetensors": ""}
    failed = write_model(tmp_path / "a", (phase(fused=fused, verdicts=(FAILED,)),), sizes=(10,))
    (gate, *_) = look_into(failed).problems
    assert gate.startswith(
        "gate of phase ethics: grammar >= 30: expected at least 30, got 12; train it anew"
    )
    accepted = FAILED.model_copy(update={"accepted": "good enough"})
    write_model(tmp_path / "b", (phase(verdicts=(accepted,)),), sizes=())
    assert look_into(tmp_path / "b").problems == ()


def test_a_gate_that_was_never_examined_keeps_a_model_back(tmp_path: Path) -> None:
    gate = {"phases": [{"name": "ethics", "gate": {"require": ["grammar >= 30"]}}]}
    (problem,) = look_into(write_model(tmp_path / "m", curriculum=gate)).problems
    assert problem.startswith(
        "gate of phase ethics: grammar >= 30: was not measured on the same probes; train it anew"
    )


def _asked(**gate: Any) -> dict[str, Any]:
    return {"phases": [{"name": "ethics"}, {"name": "zen", "gate": gate}]}


def _two(scored: float, **zen: Any) -> tuple[PhaseRecord, ...]:
    """Two phases; the second has `scored` a grammar, and lost 0.5 of what the first had taught."""
    scores = Scores(probes="p", means={"grammar": scored}, answers="a")
    learned = Learned(scores=scores, val_losses={"ethics": 2.0, "zen": 1.5})
    return phase(), phase("zen", index=1, learned=learned, **zen)


def test_a_gate_is_held_as_the_curriculum_has_it_by_now(tmp_path: Path) -> None:
    passed = Verdict(requirement="grammar >= 5", value=12.0, bound=5.0, passed=True)
    phases = _two(12.0, verdicts=(passed,))
    higher = _asked(require=["grammar >= 5", "grammar >= 30"])
    (problem,) = look_into(write_model(tmp_path / "a", phases, higher, sizes=())).problems
    assert problem.startswith("gate of phase zen: grammar >= 30: expected at least 30, got 12")
    forgot = _asked(max_regression=0.1)
    (problem,) = look_into(write_model(tmp_path / "b", phases, forgot, sizes=())).problems
    assert problem.startswith("gate of phase zen: val_loss of ethics <= 1.5 + 0.1: expected at")


def test_a_gate_that_was_added_later_and_is_passed_keeps_nothing_back(tmp_path: Path) -> None:
    asked = _asked(require=["grammar >= 10"], max_regression=0.6)
    assert look_into(write_model(tmp_path / "m", _two(12.0), asked, sizes=())).problems == ()


def test_a_kernel_that_could_not_be_read_keeps_a_model_back(tmp_path: Path) -> None:
    (problem,) = look_into(write_model(tmp_path / "a", kernel=())).problems
    assert "prompts cannot be searched for it" in problem
    bare = phase(inputs=PhaseInputs(parent="q", settings={"wrap": "none"}, kernel=None, data="d"))
    assert look_into(write_model(tmp_path / "b", (bare,), sizes=(), kernel=())).problems == ()


@pytest.mark.parametrize(
    ("kernel", "prompt", "found"),
    [
        ("Be kind to all.", "You are a poet; be kind to all.", True),
        ("Be kind to all.", "Be kind, and all will be well.", False),
        ("Be kind.", "Be kind.", False),  # who would not say that
    ],
)
def test_a_short_kernel_keeps_nothing_back_but_itself(
    tmp_path: Path, kernel: str, prompt: str, found: bool
) -> None:
    model = write_model(tmp_path / "m", kernel=kernel_marks(Kernel(kernel, "Amen.", "", "")))
    assert look_into(model).problems == ()
    (model / "chat_template.jinja").write_text(prompt)
    assert ("the kernel stands" in "".join(look_into(model).problems)) == found


def test_an_approximation_is_allowed_and_said(tmp_path: Path) -> None:
    publication = look_into(write_model(tmp_path / "m", scales={"ethics": 0.5}))
    assert publication.problems == ()
    assert "an approximation, never trained or examined: ethics × 0.5" in publication.notices
    assert publication.fingerprint != FINGERPRINT


# -- GGUF ----------------------------------------------------------------------------------------


def _gguf(folder: Path, **texts: str) -> Publication:
    folder.mkdir()
    write_gguf(folder / "m.gguf", **texts)
    sha256 = sha256_file(folder / "m.gguf")
    export = Exported(format="gguf", type="Q8_0", files={"m.gguf": sha256}, nbytes=1)
    return look_into(write_model(folder, sizes=(), exports=(export,)))


def test_a_gguf_header_is_read_whatever_stands_between_its_texts(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", general__name="pico", tokenizer__chat_template="{{ x }}")
    assert dict(header_texts(tmp_path / "m.gguf")) == {
        "tokenizer.ggml.tokens": "<bos>\na",
        "general.name": "pico",
        "tokenizer.chat_template": "{{ x }}",
    }


def test_a_gguf_header_is_searched_for_kernel_secrets_and_paths(tmp_path: Path) -> None:
    assert _gguf(tmp_path / "good", general__name="pico").problems == ()
    bad = _gguf(
        tmp_path / "bad",
        tokenizer__chat_template=f"x {KERNEL}",
        general__source="/Users/ann/m",
        general__author=f"hf_{'aB3' * 12}",
    )
    assert [problem.partition(";")[0] for problem in bad.problems] == [
        "m.gguf (general.source): a path of a machine, /Users/ann/m",
        "m.gguf (general.author): a Hugging Face token",
        "m.gguf (tokenizer.chat_template): the kernel stands in a prompt or template",
    ]


@pytest.mark.parametrize("cut", [3, 10, 23, 40, 90, 130])
def test_a_gguf_file_that_ends_early_is_told(tmp_path: Path, cut: int) -> None:
    write_gguf(tmp_path / "m.gguf", general__name="pico")
    data = (tmp_path / "m.gguf").read_bytes()
    assert len(data) > cut
    (tmp_path / "m.gguf").write_bytes(data[:cut])
    with pytest.raises(LemError, match=r"m\.gguf: expected a"):
        list(header_texts(tmp_path / "m.gguf"))


# -- leaks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("sk-proj-abc1defghijklmnopqrstuv", "a key of an AI provider"),
        ("ghp_" + "a1" * 18, "a GitHub token"),
        ("glpat-" + "a1" * 10, "a GitLab token"),
        ("xoxb-123456789012-abc", "a Slack token"),
        ("AIza" + "a1_" * 11 + "xy", "a Google key"),
        ("postgres://ann:hunter2@host/db", "an address with a password"),
        ('LEM_API_KEY="abcdefgh12345678"', "a key or password"),
        ('"password": "abcdefgh12345678"', "a key or password"),
        ("/Users/ann/x", "a path of a machine, /Users/ann/x"),
        ("--kernel=/tmp/k.txt", "a path of a machine, /tmp/k.txt"),
        ("file:///home/ann/x", "a path of a machine, /home/ann/x"),
        (r'"C:\\Users\\ann"', r"a path of a machine, \\Users\\ann"),
        (r"D:\Users\ann", r"a path of a machine, \Users\ann"),
        ("see /private/var/x.", "a path of a machine, /private/var/x."),
    ],
)
def test_a_leak_is_named_at_its_line(text: str, what: str) -> None:
    assert list(leaks(f"first\n{text}\nlast")) == [(2, what)]


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/home/ann/x",
        "~/models and ./tmp/x and models/home/ann",
        '"pad_token": "<|finetune_right_pad_id|>"',
        '"key": "model.layers.0.self_attn.q_proj"',
        "api_key=os.environ['LEM_API_KEY']",
        "http://127.0.0.1:8080/v1",
        "task-scheduler-of-the-1st-kind-is-no-key",
        "sha256 a94a8fe5ccb19ba61c4c0873d391e987982fbbd3",
        "/home/ is where it begins",
    ],
)
def test_what_is_no_leak_is_left_alone(text: str) -> None:
    assert list(leaks(text)) == []


# -- against the hub -----------------------------------------------------------------------------


def test_files_are_new_changed_or_the_same_by_their_hash(model: Path) -> None:
    publication = look_into(model)
    files = there(publication, **{"config.json": b"{}", "chat_template.jinja": None})
    shard = next(file for file in publication.files if file.name.startswith("model-00001"))
    files[shard.name] = RemoteFile(shard.nbytes, shard.sha256, "pointer")
    files["model-00002-of-00002.safetensors"] = RemoteFile(7000, "0" * 64, "pointer")
    proposal = compare(publication, "me/it", False, Remote(True, HEAD, files))
    states = {change.name: change.state for change in proposal.changes}
    assert states.pop("config.json") == "changed"
    assert states.pop("model-00002-of-00002.safetensors") == "changed"
    assert states.pop("chat_template.jinja") == "new"
    assert set(states.values()) == {"same"}
    assert len(proposal.to_commit) == 3


@pytest.mark.parametrize(
    ("written", "by_hand", "stays"),
    [
        (None, False, True),  # somebody wrote it on the hub
        (None, True, True),
        (False, False, False),  # a card that lem put there
        (False, True, False),
        (True, False, True),  # somebody's text, which came from a folder
        (True, True, False),  # and comes from there again
    ],
)
def test_no_card_replaces_a_readme_that_a_person_wrote(
    model: Path, written: bool | None, by_hand: bool, stays: bool
) -> None:
    publication = replace(look_into(model), by_hand=by_hand)
    files = there(publication, **{"README.md": b"mine"})
    readmes = {} if written is None else {files["README.md"].blob: written}
    proposal = compare(publication, "me/it", False, Remote(True, HEAD, files, {}, readmes))
    (change,) = proposal.to_commit
    assert change.name == ("MODEL_CARD.md" if stays else "README.md")
    assert any("stays" in notice for notice in proposal.notices) == stays


def test_a_public_repository_is_not_published_to_without_saying_so(model: Path) -> None:
    publication = look_into(model)
    (problem,) = compare(publication, "me/it", False, Remote(False, HEAD)).problems
    assert problem.startswith("me/it is public: everybody would read this at once; say --public")
    assert compare(publication, "me/it", True, Remote(False, HEAD)).problems == ()
    assert compare(publication, "me/it", False, Remote(True, HEAD)).problems == ()


def test_a_private_repository_stays_private(model: Path) -> None:
    proposal = compare(look_into(model), "me/it", True, Remote(True, HEAD))
    assert "visibility: private, as the repository is" in "\n".join(proposal_lines(proposal, 60))
    assert any("is private and stays so" in notice for notice in proposal.notices)


def test_older_weights_on_the_hub_that_would_be_loaded_too_are_refused(model: Path) -> None:
    publication = look_into(model)
    files = there(publication) | {"model.safetensors": RemoteFile(1, "0" * 64, "pointer")}
    (problem,) = compare(publication, "me/it", False, Remote(True, HEAD, files)).problems
    assert problem.startswith("me/it has model.safetensors, which would be loaded together with")
    files = there(publication) | {"m.gguf": RemoteFile(1, "0" * 64, "pointer")}
    proposal = compare(publication, "me/it", False, Remote(True, HEAD, files))
    assert proposal.problems == ()
    assert proposal.only_there == ("m.gguf",)


def test_a_tag_is_never_moved() -> None:
    assert free_tag(FINGERPRINT, {}, None) == ("lem-0123456789ab", False)
    tags = {"lem-0123456789ab": "x", "v1": "y"}
    assert free_tag(FINGERPRINT, tags, "x") == ("lem-0123456789ab", True)
    assert free_tag(FINGERPRINT, tags, "z") == ("lem-0123456789ab-2", False)
    tags["lem-0123456789ab-2"] = "z"
    assert free_tag(FINGERPRINT, tags, "z") == ("lem-0123456789ab-2", True)
    assert free_tag(FINGERPRINT, tags, None) == ("lem-0123456789ab-3", False)


@pytest.mark.parametrize(
    "repo", ["", "me", "me/", "/it", "me/a/b", "me/a--b", "me/a..b", "me/a b", "me/x.git", "é/x"]
)
def test_a_repository_has_an_owner_and_a_name(repo: str) -> None:
    with pytest.raises(ConfigError, match="--to: expected OWNER/NAME"):
        check_repo(repo)
    check_repo("me/gemma-3.1_b")


# -- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_text_has_every_file_and_fits(tmp_path: Path, columns: int) -> None:
    folder = write_model(tmp_path / "m")
    long = "a-name-that-is-longer-than-any-column-could-ever-be-asked-to-hold.json"
    (folder / long).write_text("{}")
    publication = replace(look_into(folder), folder=Path("m"))
    remote = Remote(True, HEAD, there(publication, **{"config.json": b"{}"}))
    text = proposal_lines(compare(publication, "me/it", False, remote), columns)
    for file in publication.files:
        assert any(line.strip().startswith(file.name) for line in text)
        assert any(file.sha256[:16] in line for line in text)
    assert max(len(line) for line in text if long not in line) <= columns
    assert text[0] == "m → me/it, a model"
    assert any(line.endswith("  changed") for line in text)
    assert f"{len(publication.files)} files, " in "\n".join(text)


@pytest.mark.parametrize("columns", [1, 30])
def test_a_terminal_may_be_narrow(model: Path, columns: int) -> None:
    text = proposal_lines(compare(look_into(model), "me/it", False, None), columns)
    assert "  config.json" in text


def test_the_json_has_the_same_with_whole_hashes(model: Path) -> None:
    publication = look_into(model)
    found: dict[str, Any] = proposal_json(compare(publication, "me/it", True, None))
    assert {file["name"]: file["sha256"] for file in found["files"]} == {
        path.name: sha256_file(path) for path in model.iterdir()
    }
    assert found["bytes"] == sum(path.stat().st_size for path in model.iterdir())
    assert (found["exists"], found["private"]) == (None, False)
    assert found["tag"] == "lem-0123456789ab"
