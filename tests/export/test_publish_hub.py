"""`lem publish` as a user runs it, against a hub on loopback that keeps every byte it is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hub_double import TOKEN, Hub, blob_id, serve
from published import FINGERPRINT, write_dataset, write_model

from lem_train.report.card import model_card
from lem_train.run.fuse import fuse_run
from lem_train.weights.tiny import build_tiny

if TYPE_CHECKING:
    pass

LEM = [sys.executable, "-c", "from lem_train.cli.main import run; run()"]
KEY, TAG = "models/me/it", f"lem-{FINGERPRINT[:12]}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as double:
        yield double


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def environment(hub: Hub, home: Path, **changes: str) -> dict[str, str]:
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        "COLUMNS": "100",
        **changes,
    }


def start(hub: Hub, folder: Path, *words: str, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LEM, "publish", str(folder), "--to", "me/it", *words],
        env=environment(hub, folder.parent / "hf", **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def publish(hub: Hub, folder: Path, *words: str, code: int = 0, **changes: str) -> str:
    """What it says; `code` is what it leaves with."""
    process = start(hub, folder, *words, **changes)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert TOKEN not in out + err
    return out + err


def on_disk(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def on_hub(hub: Hub, key: str = KEY) -> dict[str, bytes]:
    content = hub.repos[key].content()
    content.pop(".gitattributes")
    return content


# -- what arrives --------------------------------------------------------------------------------


def test_the_hub_sees_the_bytes_that_stand_on_disk(hub: Hub, model: Path) -> None:
    before = on_disk(model)
    said = publish(hub, model)
    repo = hub.repos[KEY]
    assert on_hub(hub) == before == on_disk(model)
    assert repo.private
    assert dict(hub.bodies)["create"]["visibility"] == "private"
    assert len(repo.commits) == 2  # everything became visible at once
    assert repo.tags == {TAG: repo.head.oid}
    assert repo.head.title == "model, by lem"
    assert FINGERPRINT in repo.head.message
    assert f"{hub.url}/me/it: {len(before)} files, commit {repo.head.oid[:12]}, tag {TAG}" in said
    assert "visibility: private; it is new" in said
    assert len(hub.sent()) == len(hub.objects) == 2  # the shards; the rest is in the commit


def test_once_more_sends_nothing_and_makes_no_commit(hub: Hub, model: Path) -> None:
    publish(hub, model)
    hub.requests.clear()
    said = publish(hub, model)
    assert hub.sent("PUT") == hub.sent("POST") == []
    assert len(hub.repos[KEY].commits) == 2
    assert "all of it was there already" in said


def test_a_dataset_goes_to_a_dataset_repository(hub: Hub, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "rows")
    said = publish(hub, folder, "--public", "--message", "First rows")
    repo = hub.repos["datasets/me/it"]
    assert on_hub(hub, "datasets/me/it") == on_disk(folder)
    assert not repo.private
    assert (dict(hub.bodies)["create"]["type"], repo.head.title) == ("dataset", "First rows")
    assert dict(hub.bodies)["validate"]["repoType"] == "dataset"
    assert f"{hub.url}/datasets/me/it" in said
    (tag,) = repo.tags
    assert tag.startswith("lem-")


def test_a_large_file_goes_in_parts(hub: Hub, model: Path) -> None:
    hub.part_bytes = 4000
    publish(hub, model)
    assert on_hub(hub) == on_disk(model)
    assert sorted(len(parts) for parts in hub.parts.values()) == [2, 3]


def test_a_model_that_was_trained_and_fused_is_published_whole(
    hub: Hub, tmp_path: Path, pico_run: Path
) -> None:
    fuse_run(pico_run, tmp_path / "model", None, None, None, model_card)
    publish(hub, tmp_path / "model")
    assert on_hub(hub) == on_disk(tmp_path / "model")
    record = json.loads((tmp_path / "model" / "lem.json").read_text())
    assert list(hub.repos[KEY].tags) == [f"lem-{record['phases'][-1]['fingerprint'][:12]}"]


@pytest.fixture
def pico_run(tmp_path: Path) -> Path:
    """A run of one phase on a tiny base."""
    from lem_train.curriculum.load import load_curriculum
    from lem_train.run.runner import train_curriculum

    build_tiny(tmp_path / "base", "gemma3")
    for split, count in (("train", 4), ("valid", 2)):
        rows = [
            {
                "id": f"{split}{n}",
                "prompt": f"What is asked, {n}, {split}?",
                "completion": f"Care {n}.",
            }
            for n in range(count)
        ]
        file = tmp_path / "rows" / f"{split}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "kernel.txt").write_text("Protect what is aware and keep your counsel honest.\n")
    (tmp_path / "end.txt").write_text("Answer with care.\n")
    (tmp_path / "pico.yaml").write_text(
        "name: pico\nbase: {path: base}\nkernel: {text: kernel.txt, signature: end.txt}\n"
        "defaults: {lora: {layers: all, rank: 2}, batch: {size: 2}}\n"
        "phases:\n  - {name: ethics, wrap: sandwich, data: rows, iterations: 2}\n"
    )
    train_curriculum(load_curriculum(tmp_path / "pico.yaml", ()), tmp_path / "run", lambda _: None)
    return tmp_path / "run"


# -- interruptions -------------------------------------------------------------------------------


def test_a_killed_upload_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", sizes=(9000, 8000, 7000, 6000))
    processes: list[subprocess.Popen[str]] = []

    def kill(before: int) -> None:
        if before == 2:
            processes[0].kill()

    hub.on_upload = kill
    hub.refuse = lambda method, _: 403 if method == "PUT" and len(hub.objects) == 2 else None
    processes.append(start(hub, folder))
    processes[0].communicate(timeout=120)
    assert processes[0].returncode == -9
    assert len(hub.objects) == 2
    assert len(hub.repos[KEY].commits) == 1  # nothing is visible
    assert hub.repos[KEY].tags == {}
    hub.on_upload, hub.refuse = lambda _: None, lambda *_: None
    hub.requests.clear()
    publish(hub, folder)
    assert len(hub.sent()) == 2  # only what was missing
    assert on_hub(hub) == on_disk(folder)


def test_an_upload_that_the_hub_breaks_off_says_so_and_goes_on(hub: Hub, model: Path) -> None:
    hub.refuse = lambda method, _: 403 if method == "PUT" and hub.objects else None
    said = publish(hub, model, code=1)
    assert "lem: me/it: your token may not write there" in said
    assert len(hub.repos[KEY].commits) == 1
    hub.refuse = lambda *_: None
    hub.requests.clear()
    publish(hub, model)
    assert len(hub.sent()) == 1
    assert on_hub(hub) == on_disk(model)


def test_a_tag_that_was_missed_is_made_up_for(hub: Hub, model: Path) -> None:
    hub.refuse = lambda _, path: 403 if "/tag/" in path else None
    publish(hub, model, code=1)
    assert hub.repos[KEY].tags == {}
    hub.refuse = lambda *_: None
    publish(hub, model)
    assert hub.repos[KEY].tags == {TAG: hub.repos[KEY].head.oid}
    assert len(hub.repos[KEY].commits) == 2


def test_a_change_by_somebody_else_meanwhile_is_noticed(hub: Hub, model: Path) -> None:
    repo = hub.make(KEY)

    def meanwhile(before: int) -> None:
        if before == 0:
            repo.add("by hand", {"notes.txt": (b"mine", False)})

    hub.on_upload = meanwhile
    said = publish(hub, model, code=1)
    assert "somebody changed it meanwhile, so nothing was published" in said
    assert on_hub(hub) == {"notes.txt": b"mine"}
    assert "stay on the hub though not in the folder: notes.txt" in publish(hub, model)
    assert on_hub(hub) == {**on_disk(model), "notes.txt": b"mine"}


def test_a_file_that_changes_while_it_is_sent_is_not_published(hub: Hub, model: Path) -> None:
    config = model / "config.json"
    hub.on_upload = lambda _: config.write_text('{"model_type": "llama"}\n') and None
    said = publish(hub, model, code=1)
    assert "these changed while they were sent" in said
    assert "config.json" in said
    assert len(hub.repos[KEY].commits) == 1


def test_what_the_hub_leaves_out_is_noticed(hub: Hub, model: Path) -> None:
    hub.ignored = {"config.json"}
    said = publish(hub, model, code=1)
    assert "the hub did not take these as they are here:\n  config.json" in said


# -- other people's things -----------------------------------------------------------------------


def test_a_readme_that_was_edited_on_the_hub_survives(hub: Hub, model: Path) -> None:
    publish(hub, model)
    repo = hub.repos[KEY]
    repo.add("Better words", {"README.md": (b"# Mine\n", False)})
    with (model / "README.md").open("a") as file:
        file.write("\nAnother line.\n")
    said = publish(hub, model)
    assert on_hub(hub)["README.md"] == b"# Mine\n"
    assert on_hub(hub)["MODEL_CARD.md"] == (model / "README.md").read_bytes()
    assert "README.md on the hub was written by somebody and stays" in said
    assert repo.tags[f"{TAG}-2"] == repo.head.oid
    assert repo.tags[TAG] == repo.commits[1].oid  # where it was


def test_a_card_that_lem_wrote_is_replaced_by_a_newer_one(hub: Hub, model: Path) -> None:
    publish(hub, model)
    first = (model / "README.md").read_bytes()
    assert f"README.md {blob_id(first)}, a card" in hub.repos[KEY].head.message
    write_model(model, noise=0.05)
    publish(hub, model)
    assert on_hub(hub)["README.md"] == (model / "README.md").read_bytes() != first
    assert "MODEL_CARD.md" not in on_hub(hub)


def test_a_public_repository_is_not_filled_by_chance(hub: Hub, model: Path) -> None:
    hub.make(KEY, private=False)
    assert "me/it is public: everybody would read this at once" in publish(hub, model, code=1)
    assert hub.sent("POST") == []
    publish(hub, model, "--public")
    assert on_hub(hub) == on_disk(model)


def test_a_hub_that_makes_it_public_whatever_one_asks_gets_nothing(hub: Hub, model: Path) -> None:
    hub.public_whatever = True
    assert "expected a private repository, and the hub made a public one" in publish(
        hub, model, code=1
    )
    assert on_hub(hub) == {}
    assert hub.objects == {}


# -- refusals ------------------------------------------------------------------------------------


def test_a_refused_folder_asks_the_hub_nothing(hub: Hub, model: Path) -> None:
    (model / "notes.txt").write_text("see /home/ann/x")
    said = publish(hub, model, code=1)
    assert "not published, because\n  notes.txt:1: a path of a machine, /home/ann/x" in said
    assert hub.requests == []


def test_a_key_in_the_commit_s_words_is_refused(hub: Hub, model: Path) -> None:
    said = publish(hub, model, "--message", f"with hf_{'aB3' * 12}", code=1)
    assert "--message: expected nothing private, found a Hugging Face token" in said
    assert hub.requests == []


def test_a_card_that_the_hub_refuses_is_not_published(hub: Hub, model: Path) -> None:
    hub.card_errors = ['"license" must be one of [apache-2.0, mit]', '"base_model" is no model']
    said = publish(hub, model, code=1)
    assert 'the hub refuses the card:\n  "license" must be' in said
    assert '"base_model" is no model' in said
    assert hub.repos == {}


def test_a_card_whose_front_matter_is_no_yaml_is_told(hub: Hub, model: Path) -> None:
    (model / "README.md").write_text("---\nlicense: [\n---\n# it\n")
    assert "README.md: the hub refuses the card:" in publish(hub, model, code=1)
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("method", "part", "status", "words"),
    [
        ("GET", "/api/models/me/it", 401, "the hub does not know your token; log in anew"),
        ("POST", "/api/repos/create", 403, "your token may not write there"),
        ("POST", "/api/repos/create", 409, "somebody is changing it at this moment"),
        ("POST", "/commit/", 500, "the hub is in trouble (HTTP 500); the same command goes on"),
        ("POST", "/commit/", 429, "the hub asks for patience"),
        ("POST", "/commit/", 418, "(HTTP 418)"),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do(
    hub: Hub, model: Path, method: str, part: str, status: int, words: str
) -> None:
    if status == 401:  # without this, the client takes it for a repository that is hidden
        hub.headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.refuse = lambda asked, path: status if asked == method and part in path else None
    said = publish(hub, model, code=1)
    assert words in said
    assert f"HTTP {status}" in said


def test_without_a_login_one_is_asked_to_log_in(hub: Hub, model: Path) -> None:
    assert "use `hf auth login`, with a token that may write" in publish(
        hub, model, code=1, HF_TOKEN=""
    )
    assert hub.sent("POST") == []


def test_without_a_network_one_is_told(hub: Hub, model: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "me/it: the hub cannot be reached" in publish(hub, model, code=1, **nowhere)
    assert "HF_HUB_OFFLINE is set" in publish(hub, model, code=1, HF_HUB_OFFLINE="1")


# -- a dry run -----------------------------------------------------------------------------------


def test_a_dry_run_lists_everything_and_writes_nothing_anywhere(hub: Hub, model: Path) -> None:
    before = on_disk(model.parent)
    said = publish(hub, model, "--dry-run", HF_TOKEN="")
    assert all(name in said for name in on_disk(model))
    assert f"tag: {TAG}" in said
    assert {method for method, _ in hub.requests} == {"GET"}
    assert hub.repos == {}
    assert on_disk(model.parent) == before  # HF_HOME is below it


def test_a_dry_run_says_what_is_new_on_the_hub(hub: Hub, model: Path) -> None:
    publish(hub, model)
    (model / "config.json").write_text('{"model_type": "llama"}\n')
    (model / "generation_config.json").write_text("{}\n")
    hub.requests.clear()
    found = json.loads(publish(hub, model, "--dry-run", "--json"))
    states = {file["name"]: file["state"] for file in found["files"]}
    assert (states.pop("config.json"), states.pop("generation_config.json")) == ("changed", "new")
    assert set(states.values()) == {"same"}
    assert (found["exists"], found["private"], found["published"]) == (True, True, None)
    assert {method for method, _ in hub.requests} == {"GET"}


def test_a_dry_run_without_a_network_says_that_it_could_not_look(hub: Hub, model: Path) -> None:
    said = publish(hub, model, "--dry-run", HF_ENDPOINT="http://127.0.0.1:9")
    assert "what is there already is not known" in said
    assert "lem: me/it: the hub cannot be reached" in said


def test_a_dry_run_of_a_refused_folder_lists_it_and_fails(hub: Hub, model: Path) -> None:
    (model / "notes.txt").write_text("see /home/ann/x")
    said = publish(hub, model, "--dry-run", code=1)
    assert "notes.txt:1: a path of a machine, /home/ann/x" in said
    assert TAG in said
