"""A teacher behind an OpenAI-compatible chat API, on this machine or elsewhere.

Every candidate is a request of its own with a seed of its own: some servers know no `n`, some give
all `n` the same seed, and none says what each of them cost. A request that fails for a while (429,
5xx, a time-out, a cut connection) is made again, later each time; when is a pure function of seed,
request and attempt, unless the server says when. Answers stand in the order of the requests,
whatever order they came in.

The key comes from LEM_API_KEY and goes into one header, to one address: redirects are not followed,
and it is cut out of whatever the server says before that is shown.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit, urlunsplit

import httpx2

from ..errors import ConfigError, LemError
from ..hashing import derive_seed
from .backend import JSON, Candidate, Request
from .config import DistillConfig, LimitConfig

KEY = "LEM_API_KEY"

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds between two attempts
_MAX_BYTES = 16 * 1024 * 1024  # of one answer
_CHECKED = 0.1  # seconds between two looks whether to go on
_SAID = 300  # characters of a server's own words
_SEEDS = 2**31  # some servers keep a seed in 32 bits with a sign
_LATER = "the same command goes on where it ended"


class TeacherError(LemError):
    """A teacher behind an API that cannot be asked, refuses, or has cost enough."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of prompts and of answers."""

    prompt: int = 0
    answer: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.answer + other.answer)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt - other.prompt, self.answer - other.answer)


@dataclass(frozen=True)
class ApiLimits:
    """How hard a server may be pressed, and what it may cost.

    Attributes:
        concurrency: requests under way at once.
        per_minute: requests begun in a minute, those made again too; None for no limit.
        attempts: how often a request is made before it counts as failed.
        timeout: seconds from a request to the end of its answer, and the longest wait that a
            server may ask for.
        max_tokens: in all prompts and answers of this process together; None for no limit.
        max_cost: likewise in money, with `prices`.
        prices: of a million tokens, of prompts and of answers.
        insecure: whether plain http may be spoken with another machine.
    """

    concurrency: int = 4
    per_minute: float | None = None
    attempts: int = 6
    timeout: float = 300.0
    max_tokens: int | None = None
    max_cost: float | None = None
    prices: tuple[float, float] | None = None
    insecure: bool = False


def api_limits(config: LimitConfig) -> ApiLimits:
    """The limits that a user gave."""
    fields = config.model_dump(exclude={"price_in", "price_out"})
    if config.price_in is None or config.price_out is None:
        return ApiLimits(**fields)
    return ApiLimits(**fields, prices=(config.price_in, config.price_out))


def api_backend(config: DistillConfig, url: str, model: str, limits: ApiLimits) -> ApiBackend:
    """A backend that asks `model` at `url`, e.g. http://127.0.0.1:8080 or https://host/v1.

    The key, if the server needs one, is read from LEM_API_KEY. Nothing is sent yet.

    Raises:
        ConfigError: an address, a key or limits that cannot be used.
    """
    if config.wrap != "none":
        raise ConfigError(
            f"--wrap {config.wrap}: expected none beside --api: the kernel is not sent to a server"
        )
    address = _endpoint(url, limits.insecure)
    _refuse_limits(limits)
    if not model.strip():
        raise ConfigError("--model: expected the name that the server knows its model by")
    return ApiBackend(config, address, model, limits, _key())


def retry_wait(seed: int, request: str, attempt: int) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1): doubled each time, at most a
    minute, and less by up to half, so that requests that failed together come back apart."""
    longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(attempt - 1, 16))
    part = derive_seed(seed, "retry", request, attempt) / 2**63
    return longest * (1 - part / 2)


class ApiBackend:
    """See `Backend`. Made by `api_backend`."""

    def __init__(
        self, config: DistillConfig, address: SplitResult, model: str, limits: ApiLimits, key: str
    ) -> None:
        self._config = config
        self._address = address
        self._url = urlunsplit(address)
        self._model = model
        self._limits = limits
        self._key = key
        self._meter = Meter(limits)
        self._next_start = 0.0  # of the monotonic clock
        self._reached = False  # whether the server has ever answered

    @property
    def identity(self) -> Mapping[str, JSON]:
        """The model's name and the host: what weights answer there cannot be known. Port and path
        may change, and say nothing about the model."""
        host = self._address.hostname or ""
        return {
            "teacher": self._model,
            "teacher_sha256": None,
            "backend": "api",
            "host": "loopback" if _is_loopback(host) else host,
        }

    @property
    def spent(self) -> Tokens:
        """So far, as the server counts them; of a request that broke off, the most that it may
        have cost."""
        return self._meter.spent

    def answer(
        self, requests: Sequence[Request], seed: int, check: Callable[[], None]
    ) -> list[list[Candidate]]:
        """See `Backend`.

        Raises:
            TeacherError: the server refuses, does not answer after all attempts, or what these
                requests may cost is more than is left: then none of them is made.
        """
        numbers = range(self._config.best_of)
        asked = [(request, number) for request in requests for number in numbers]
        self._meter.admit(sum((self._most(request) for request, _ in asked), Tokens()))
        answers = asyncio.run(self._all(asked, seed, check))
        return [answers[i : i + len(numbers)] for i in range(0, len(answers), len(numbers))]

    async def _all(
        self, asked: Sequence[tuple[Request, int]], seed: int, check: Callable[[], None]
    ) -> list[Candidate]:
        """All answers, in order; the first error, or what `check` raises, ends the others."""
        slots = asyncio.Semaphore(self._limits.concurrency)
        async with self._client() as client:

            async def one(request: Request, number: int) -> Candidate:
                async with slots:
                    return await self._persist(client, request, number, seed)

            return await _gathered([one(request, number) for request, number in asked], check)

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=self._limits.timeout,
            trust_env=not _is_loopback(self._address.hostname or ""),  # no proxy to this machine
        )

    async def _persist(
        self, client: httpx2.AsyncClient, request: Request, number: int, seed: int
    ) -> Candidate:
        """One candidate, asked for until it comes."""
        own = f"{request.id}#{number}"
        body = self._body(request, derive_seed(seed, "candidate", own) % _SEEDS)
        for attempt in range(1, self._limits.attempts + 1):
            await self._turn()
            try:
                return await self._ask(client, body, request)
            except _Failed as failed:
                if attempt == self._limits.attempts:
                    self._give_up(request, f"{failed} {_times(attempt)}", failed.advice)
                if failed.after > self._limits.timeout:
                    wait = f"{failed}, to be asked again in {failed.after:,.0f} s"
                    self._give_up(request, wait, failed.advice)
                if failed.sent:
                    self._meter.settle(self._most(request), self._most(request))
                    self._meter.admit(self._most(request))
                await asyncio.sleep(max(failed.after, retry_wait(seed, own, attempt)))
        raise AssertionError("attempts is at least 1")

    async def _turn(self) -> None:
        """Wait until the rate allows one more request."""
        if self._limits.per_minute is not None:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 60.0 / self._limits.per_minute
            await asyncio.sleep(start - now)

    def _body(self, request: Request, seed: int) -> dict[str, Any]:
        """What is asked. Servers call the repetition penalty by two names and pass over what they
        do not know; neither it nor top_k, which are not OpenAI's, is sent where it is off."""
        config = self._config
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens,
            "seed": seed,
            "stream": False,
        }
        if config.top_k:
            body["top_k"] = config.top_k
        if config.repetition_penalty != 1:
            body["repetition_penalty"] = config.repetition_penalty
            body["repeat_penalty"] = config.repetition_penalty
        return body

    async def _ask(
        self, client: httpx2.AsyncClient, body: Mapping[str, Any], request: Request
    ) -> Candidate:
        """One attempt. Raises _Failed where another may do better, else TeacherError."""
        try:
            async with asyncio.timeout(self._limits.timeout):
                status, headers, content = await _posted(client, self._url, body)
        except httpx2.ConnectError as error:
            found = f"no connection ({self._shown(str(error))})"
            if not self._reached:
                self._give_up(request, found, "is the server running, and the address right?")
            raise _Failed(found, sent=False) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise _Failed(f"no whole answer in {self._limits.timeout:g} s", sent=True) from None
        except httpx2.TransportError as error:
            said = self._shown(str(error)) or type(error).__name__
            raise _Failed(f"a cut connection ({said})", sent=True) from None
        self._reached = True
        if content is None:
            self._give_up(request, f"more than {_MAX_BYTES:,} bytes", "is it a chat API?")
        if status == 200:
            return self._candidate(content, request)
        found = f"{status}{self._words(content)}"
        if status in (408, 425, 429) or status >= 500:
            advice = "ask for less at a time or a minute" if status == 429 else ""
            raise _Failed(found, sent=False, after=_retry_after(headers), advice=advice)
        self._give_up(request, found, _ADVICE.get(status, _SETTINGS))

    def _candidate(self, content: bytes, request: Request) -> Candidate:
        """The answer in a response, and its cost on the meter."""
        try:
            answer = json.loads(content)
            choice = answer["choices"][0]
            text = choice["message"].get("content") or ""
            usage = answer.get("usage") or {}
            counts: list[Any] = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            said = f"something else{self._words(content)}"
            self._give_up(request, said, "does the address end in /v1?", "a chat completion")
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            if self._meter.limited:
                advice = "such a server can have no limit on tokens or cost"
                self._give_up(request, "an answer without it", advice, "usage in each answer")
            counts = [0, 0]
        cost = Tokens(*counts)
        self._meter.settle(self._most(request), cost)
        whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        return Candidate(whole, choice.get("finish_reason") == "stop", cost.answer)

    def _most(self, request: Request) -> Tokens:
        """The most tokens that one attempt may cost: no token is less than a byte, and a template
        adds a few."""
        return Tokens(len(request.prompt.encode()) + 64, self._config.max_tokens)

    def _words(self, content: bytes) -> str:
        """What a server says for itself, short, on one line and without the key."""
        text = content.decode("utf-8", "replace")
        with suppress(ValueError, AttributeError, RecursionError):
            error = json.loads(text).get("error")
            text = str(error.get("message") if isinstance(error, dict) else error or text)
        said = self._shown(text)
        return f" ({said})" if said else ""

    def _shown(self, text: str) -> str:
        for key in {self._key, json.dumps(self._key)[1:-1]} - {""}:
            text = text.replace(key, "…")
        line = " ".join(text.split())
        line = "".join(each if each.isprintable() else "�" for each in line)
        return line if len(line) <= _SAID else f"{line[:_SAID]}…"

    def _give_up(
        self, request: Request, found: str, advice: str, expected: str = "an answer"
    ) -> NoReturn:
        advice = f"; {advice}" if advice else ""
        raise TeacherError(
            f"{self._url}: expected {expected} to {request.id}, got {found}{advice}; {_LATER}"
        )


class Meter:
    """Tokens spent, held under the limits: what may cost more than is left is not begun."""

    def __init__(self, limits: ApiLimits) -> None:
        self._limits = limits
        self._open = Tokens()  # what requests that were admitted may still cost
        self.spent = Tokens()

    @property
    def limited(self) -> bool:
        return (self._limits.max_tokens, self._limits.max_cost) != (None, None)

    def settle(self, most: Tokens, spent: Tokens) -> None:
        """A request that was admitted for `most` has cost `spent`."""
        self._open -= most
        self.spent += spent

    def admit(self, most: Tokens) -> None:
        """Raise TeacherError where requests that cost so much may break a limit."""
        taken = self.spent + self._open
        whole = taken + most
        tokens, cost = self._limits.max_tokens, self._limits.max_cost
        if tokens is not None and whole.prompt + whole.answer > tokens:
            now, more = taken.prompt + taken.answer, most.prompt + most.answer
            self._refuse(f"{tokens:,} tokens", f"{now:,}", f"{more:,}")
        if cost is not None and self._cost(whole) > cost:
            money, later = self._cost(taken), self._cost(most)
            self._refuse(f"a cost of {cost:g}", f"{money:.4g}", f"{later:.4g}")
        self._open += most

    def _cost(self, tokens: Tokens) -> float:
        """In money."""
        one, other = self._limits.prices or (0.0, 0.0)
        return (tokens.prompt * one + tokens.answer * other) / 1e6

    def _refuse(self, limit: str, spent: str, more: str) -> NoReturn:
        raise TeacherError(
            f"the limit is {limit}: {spent} spent, and what comes next may take {more} more; raise "
            f"the limit, or lower max_tokens or batch_size; {_LATER}, with nothing counted as spent"
        )


class _Failed(Exception):
    """An attempt that failed, though another may not.

    sent: whether it may have cost something; after: seconds that the server asks to wait.
    """

    def __init__(self, found: str, sent: bool, after: float = 0.0, advice: str = "") -> None:
        super().__init__(found)
        self.sent, self.after, self.advice = sent, after, advice


_SETTINGS = "the server may not know one of the settings (top_k 0 and repetition_penalty 1 leave "
_SETTINGS += "these two away)"
_REDIRECT = "name the address that it leads to, if it is the right one"
_ADVICE = {
    401: f"set {KEY} to a key that it knows",
    403: f"set {KEY} to a key that may use this model",
    404: "does it know this model, and is the address right?",
    **dict.fromkeys(range(300, 400), _REDIRECT),
}


async def _gathered(
    work: Sequence[Coroutine[Any, Any, Candidate]], check: Callable[[], None]
) -> list[Candidate]:
    tasks = [asyncio.create_task(each) for each in work]
    pending: set[asyncio.Task[Candidate]] = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=_CHECKED, return_when=asyncio.FIRST_EXCEPTION
            )
            check()
            for task in done:
                task.result()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


async def _posted(
    client: httpx2.AsyncClient, url: str, body: Mapping[str, Any]
) -> tuple[int, httpx2.Headers, bytes | None]:
    """Status, headers and content of the response; no content where it is too long."""
    async with client.stream("POST", url, json=body) as response:
        content = b""
        async for part in response.aiter_bytes():
            content += part
            if len(content) > _MAX_BYTES:
                return response.status_code, response.headers, None
        return response.status_code, response.headers, content


def _retry_after(headers: httpx2.Headers) -> float:
    """Seconds that the server asks to wait: it writes a number or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _times(attempts: int) -> str:
    return "once" if attempts == 1 else f"{attempts} times"


def _endpoint(url: str, insecure: bool) -> SplitResult:
    """Where chat completions are asked for; the address may be given with or without /v1."""
    expected = "expected an address such as http://127.0.0.1:8080 or https://host/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigError(f"--api: {expected}, got one that cannot be read") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"--api: {expected}, got one with a name, a query or a fragment; a key belongs into "
            f"{KEY}"
        )
    if parts.scheme not in ("http", "https") or not host or not url.isascii():
        raise ConfigError(f"--api: {expected}, got {json.dumps(url[:100])}")
    if parts.scheme == "http" and not _is_loopback(host) and not insecure:
        raise ConfigError(
            f"--api: expected https, got http to another machine ({host}): prompts, answers and "
            "the key could be read and changed on the way; --insecure allows it"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return parts._replace(path=f"{path}/chat/completions")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_limits(limits: ApiLimits) -> None:
    numbers = (limits.concurrency, limits.attempts, limits.timeout)
    optional = (limits.per_minute, limits.max_tokens, limits.max_cost)
    if any(not 0 < n < float("inf") for n in (*numbers, *(n for n in optional if n is not None))):
        raise ConfigError("limits of an API: expected numbers above 0")
    if any(not 0 <= price < float("inf") for price in limits.prices or ()):
        raise ConfigError("prices of an API: expected numbers of 0 or more")
    if limits.max_cost is not None and limits.prices is None:
        raise ConfigError("a limit of cost: expected the prices of a million tokens beside it")


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{KEY}: expected a key of plain characters without spaces")
    return key
