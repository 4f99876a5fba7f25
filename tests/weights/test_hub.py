"""The hub's border: what a user reads when a base cannot be had. Nothing here uses a network."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

from lem_train.errors import WeightsError
from lem_train.weights import hub

REPO = "google/gemma-3-1b-it"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CALLS: list[Callable[[str, str], Any]] = [hub.download, hub.download_tokenizer, hub.commit_of]

MESSAGES = [
    (
        GatedRepoError,
        f"accept the licence on huggingface.co/{REPO}, then log in with `hf auth login`",
    ),
    (
        RepositoryNotFoundError,
        f"expected a model at huggingface.co/{REPO}; check base.repo, or log in if it is private",
    ),
    (RevisionNotFoundError, "expected revision v2; check base.revision"),
    (LocalEntryNotFoundError, "it is not in the local cache and the hub cannot be reached"),
    (OfflineModeIsEnabled, "it is not in the local cache and the hub cannot be reached"),
    (HfHubHTTPError, "it is not in the local cache and the hub cannot be reached"),
    (ConnectionError, "it is not in the local cache and the hub cannot be reached"),
]


class NoNetworkAllowed(BaseException):
    """The hub was asked although it need not be; no `except Exception` may hide that."""


Failures = Callable[..., None]


@pytest.fixture(autouse=True)
def fail(monkeypatch: pytest.MonkeyPatch) -> Failures:
    """Nothing is cached, and whatever asks the hub fails: the question before a download with
    `asked` (None: it is answered), everything else with `error`."""

    def fail(error: BaseException, asked: BaseException | None = None) -> None:
        def download(*_: object, local_files_only: bool = False, **__: object) -> str:
            raise LocalEntryNotFoundError("not cached") if local_files_only else error

        class Api:
            def model_info(self, *_: object, **__: object) -> None:
                if asked is not None:
                    raise asked

        monkeypatch.setattr(hub, "snapshot_download", download)
        monkeypatch.setattr(hub, "hf_hub_download", download)
        monkeypatch.setattr(hub, "HfApi", Api)

    fail(NoNetworkAllowed(), NoNetworkAllowed())
    return fail


def _http_error(kind: type[Exception]) -> Exception:
    """An instance without the HTTP response that its constructor wants."""
    return kind.__new__(kind)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("kind", "message"), MESSAGES)
@pytest.mark.parametrize("early", [True, False], ids=["asked", "downloading"])
def test_an_error_of_the_hub_says_what_to_do(
    call: Callable[[str, str], Any],
    kind: type[Exception],
    message: str,
    early: bool,
    fail: Failures,
) -> None:
    error = _http_error(kind)
    fail(error, asked=error if early else None)
    with pytest.raises(WeightsError) as caught:
        call(REPO, "v2")
    assert str(caught.value) == f"base {REPO} at v2: {message} ({kind.__name__})"
    assert caught.value.__cause__ is error


def test_any_error_of_the_first_question_is_an_expected_failure(fail: Failures) -> None:
    fail(NoNetworkAllowed(), asked=_transport_error())
    with pytest.raises(WeightsError, match="the hub cannot be reached"):
        hub.download(REPO, COMMIT)


def test_a_commit_is_shortened_in_messages(fail: Failures) -> None:
    fail(LocalEntryNotFoundError("offline"))
    with pytest.raises(WeightsError, match=rf"{REPO} at {COMMIT[:12]}: "):
        hub.download(REPO, COMMIT)


def _transport_error() -> Exception:
    """What a connection that breaks raises: an HTTPError of the hub's transport, no OSError."""
    base = next(kind for kind in HfHubHTTPError.__mro__ if kind.__module__.startswith("httpx"))
    error: Exception = type("ReadError", (base,), {})("peer closed connection")
    assert not isinstance(error, OSError)
    return error


@pytest.mark.parametrize("call", [hub.download, hub.commit_of])
def test_a_connection_that_breaks_midway_is_an_expected_failure(
    call: Callable[[str, str], Any], fail: Failures
) -> None:
    fail(_transport_error())
    with pytest.raises(WeightsError):
        call(REPO, "main")


def test_a_full_disk_is_not_told_as_a_missing_network(fail: Failures) -> None:
    fail(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(WeightsError, match="No space left"):
        hub.download(REPO, COMMIT)


def test_a_repository_without_a_config_is_not_told_as_a_missing_network(fail: Failures) -> None:
    fail(_http_error(RemoteEntryNotFoundError))
    with pytest.raises(WeightsError, match=r"config\.json"):
        hub.commit_of(REPO, "main")


def _cache(monkeypatch: pytest.MonkeyPatch, root: Path, names: list[str]) -> Path:
    """A cached snapshot of `names`; asking the hub for it brings back /downloaded."""
    snapshot = root / "models--google--gemma-3-1b-it" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in names:
        (snapshot / name).touch()

    def download(repo: str, *, local_files_only: bool = False, **keys: Any) -> str:
        if not local_files_only:
            return "/downloaded"
        return snapshot_download(repo, cache_dir=root, local_files_only=True, **keys)

    monkeypatch.setattr(hub, "snapshot_download", download)
    return snapshot


@pytest.mark.parametrize("call", [hub.download, hub.download_tokenizer])
def test_a_complete_cache_is_used_without_a_network(
    call: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    snapshot = _cache(monkeypatch, tmp_path, names)
    assert call(REPO, COMMIT) == snapshot


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (hub.download, ["config.json"]),
        (hub.download, ["config.json", "tokenizer.json"]),
        (hub.download_tokenizer, ["config.json"]),
    ],
    ids=["config alone", "tokenizer alone", "config, for the tokenizer"],
)
def test_a_cache_that_lacks_what_is_wanted_is_not_taken_for_complete(
    call: Callable[[str, str], Path],
    names: list[str],
    fail: Failures,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    fail(NoNetworkAllowed(), asked=None)
    _cache(monkeypatch, tmp_path, names)
    assert call(REPO, COMMIT) == Path("/downloaded")


def test_a_commit_stands_for_itself_without_a_network() -> None:
    assert hub.commit_of(REPO, COMMIT) == COMMIT


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:12], COMMIT + "0", COMMIT.upper()])
def test_anything_but_a_full_commit_is_looked_up(revision: str) -> None:
    with pytest.raises(NoNetworkAllowed):
        hub.commit_of(REPO, revision)


def test_the_commit_of_a_branch_is_the_snapshot_that_the_hub_answers_with(
    fail: Failures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fail(NoNetworkAllowed(), asked=None)

    def answer(repo: str, name: str, *, revision: str) -> str:
        assert (repo, name, revision) == (REPO, "config.json", "main")
        return str(tmp_path / "snapshots" / COMMIT / name)

    monkeypatch.setattr(hub, "hf_hub_download", answer)
    assert hub.commit_of(REPO, "main") == COMMIT


def test_a_branch_is_asked_for_once_where_there_is_no_network(fail: Failures) -> None:
    """The download would try again and again."""
    fail(NoNetworkAllowed(), asked=_transport_error())
    with pytest.raises(hub.Unreachable):
        hub.commit_of(REPO, "main")


@pytest.mark.parametrize("revision", ["main", "refs/pr/1"])
def test_a_cached_ref_is_read_without_a_network(
    revision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ref = tmp_path / "models--google--gemma-3-1b-it" / "refs" / revision
    ref.parent.mkdir(parents=True)
    ref.write_text(COMMIT + "\n")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    assert hub.cached_commit(REPO, revision) == COMMIT


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_ref_that_is_not_cached_stays_as_it_is(
    revision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    assert hub.cached_commit(REPO, revision) == revision


def _wanted(
    call: Callable[[str, str], Path], files: list[str], patch: pytest.MonkeyPatch
) -> set[str]:
    chosen: set[str] = set()

    def answer(repo: str, *, revision: str, allow_patterns: list[str], **_: object) -> str:
        assert (repo, revision) == (REPO, COMMIT)
        chosen.update(filter_repo_objects(files, allow_patterns=allow_patterns))
        return "/cache"

    patch.setattr(hub, "snapshot_download", answer)
    patch.setattr(hub, "_ask_once", lambda *_: None)
    call(REPO, COMMIT)
    return chosen


TOKENIZER = {"config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
TOKENIZER |= {"chat_template.jinja", "merges.txt", "generation_config.json"}
WEIGHTS = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
UNSAFE = {"pytorch_model.bin", "modeling_evil.py", "model.gguf", "flax_model.msgpack", "x.pkl"}


def test_weights_come_as_safetensors_with_the_tokenizer_and_no_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = sorted(TOKENIZER | WEIGHTS | UNSAFE)
    assert _wanted(hub.download, files, monkeypatch) == TOKENIZER | WEIGHTS


def test_the_tokenizer_comes_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(TOKENIZER | WEIGHTS | UNSAFE)
    assert _wanted(hub.download_tokenizer, files, monkeypatch) == TOKENIZER


def test_weights_that_are_never_loaded_are_not_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spare = {"consolidated.safetensors", "original/consolidated.safetensors"}
    wanted = _wanted(hub.download, sorted(WEIGHTS | spare), monkeypatch)
    assert wanted == WEIGHTS


def test_no_message_carries_a_token(fail: Failures) -> None:
    fail(LocalEntryNotFoundError("Authorization: Bearer hf_secret"))
    with pytest.raises(WeightsError) as caught:
        hub.download(REPO, "main")
    assert "hf_secret" not in str(caught.value)


SECRETS = ["hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567", "a-token-of-another-form"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
@pytest.mark.parametrize("kind", [OSError, ValueError])
@pytest.mark.parametrize("call", CALLS)
def test_a_token_in_an_error_is_taken_out(
    call: Callable[[str, str], Any],
    kind: type[Exception],
    variable: str,
    secret: str,
    fail: Failures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, secret)
    fail(kind(f"Authorization: Bearer {secret} was refused"), asked=None)
    with pytest.raises(WeightsError) as caught:
        call(REPO, "main")
    assert secret not in str(caught.value)
    assert "Authorization: Bearer" in str(caught.value) and "was refused" in str(caught.value)


def test_a_token_that_is_nobodys_here_is_taken_out_too(fail: Failures) -> None:
    fail(OSError(f"Bearer {SECRETS[0]}"), asked=None)
    with pytest.raises(WeightsError, match="Bearer hf_… ") as caught:
        hub.download(REPO, "main")
    assert SECRETS[0] not in str(caught.value)


def test_code_comes_only_where_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(TOKENIZER | WEIGHTS | UNSAFE)
    code = {"modeling_evil.py"}
    for call, wanted in ((hub.download, TOKENIZER | WEIGHTS), (hub.download_tokenizer, TOKENIZER)):
        trusting = partial(call, trust_remote_code=True)
        assert _wanted(trusting, files, monkeypatch) == wanted | code
        assert _wanted(call, files, monkeypatch) == wanted


@pytest.mark.parametrize("code", [[], ["own.py"]])
def test_a_cache_without_code_is_not_complete_once_the_code_is_trusted(
    code: list[str], fail: Failures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fail(NoNetworkAllowed(), asked=None)
    names = ["config.json", "tokenizer.json", "model.safetensors", *code]
    snapshot = _cache(monkeypatch, tmp_path, names)
    assert hub.download(REPO, COMMIT, trust_remote_code=False) == snapshot
    found = hub.download(REPO, COMMIT, trust_remote_code=True)
    assert found == (snapshot if code else Path("/downloaded"))


def test_a_damaged_index_in_the_cache_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ["config.json", "tokenizer.json", "model.safetensors.index.json"]
    _cache(monkeypatch, tmp_path, names)  # the index is empty
    with pytest.raises(WeightsError, match=r"index\.json: expected a JSON object"):
        hub.download(REPO, COMMIT)


# -- what a download would be ------------------------------------------------------------------


def _answered(status: int) -> Exception:
    error = _http_error(HfHubHTTPError)
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


def _file(name: str, size: int | None) -> SimpleNamespace:
    return SimpleNamespace(rfilename=name, size=size)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], None]:
    """A hub that lists a model's files, and refuses them with an error if there is one."""
    files = [
        _file("model-00001-of-00002.safetensors", 2000),
        _file("model-00002-of-00002.safetensors", 1000),
        _file("tokenizer.json", 30),
        _file("config.json", None),
        _file("pytorch_model.bin", 9000),
        _file("modeling.py", 500),
    ]

    def model_info(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(siblings=files)

    def use(error: Exception | None) -> None:
        def metadata(*_: object, **__: object) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(hub, "HfApi", lambda: SimpleNamespace(model_info=model_info))
        monkeypatch.setattr(hub, "get_hf_file_metadata", metadata)

    return use


def test_the_bytes_of_a_download_are_those_of_its_files(listed: Callable[..., None]) -> None:
    listed(None)
    assert hub.download_bytes(REPO, COMMIT) == 3030


def test_a_gated_model_whose_name_anybody_reads_is_refused(listed: Callable[..., None]) -> None:
    listed(_http_error(GatedRepoError))
    with pytest.raises(WeightsError, match="accept the licence"):
        hub.download_bytes(REPO, COMMIT)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "the hub refuses it (HTTP 401); log in anew with `hf auth login`"),
        (403, "the hub refuses it (HTTP 403); log in anew with `hf auth login`"),
        (503, "the hub answers HTTP 503; try again later"),
    ],
)
def test_what_the_hub_answers_is_told(status: int, told: str, listed: Callable[..., None]) -> None:
    listed(_answered(status))
    with pytest.raises(WeightsError, match=re.escape(told)) as caught:
        hub.download_bytes(REPO, COMMIT)
    assert not isinstance(caught.value, hub.Unreachable)


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        (RepositoryNotFoundError, hub.NoSuchModel),
        (ConnectionError, hub.Unreachable),
        (LocalEntryNotFoundError, hub.Unreachable),
    ],
)
def test_no_such_model_and_no_network_are_told_apart(
    kind: type[Exception], raised: type[WeightsError], fail: Failures
) -> None:
    fail(NoNetworkAllowed(), asked=_http_error(kind))
    with pytest.raises(raised):
        hub.download_bytes(REPO, COMMIT)
