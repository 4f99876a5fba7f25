"""llama.cpp's side of a comparison, run as a program: a crash in C must not end the tests.

Arguments: a GGUF file. It answers each line of standard input, a JSON object, by one of its own.
"""

import ctypes
import json
import sys
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

_ROOM = 512  # tokens


@llama_cpp.llama_log_callback
def quiet(level: int, text: bytes, data: object) -> None:
    if level >= 4:  # errors
        sys.stderr.write(text.decode(errors="replace"))


def tokenise(vocab: Any, text: str, around: bool, special: bool) -> list[int]:
    raw = text.encode()
    room = len(raw) + 8
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(vocab, raw, len(raw), ids, room, around, special)
    assert count >= 0, "more tokens than bytes"
    return list(ids[:count])


def logits(model: Any, vocab: Any, row: list[int], out: str) -> None:
    """Write the row's logits (T, V), from a cache of float32."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _ROOM
    params.n_threads = params.n_threads_batch = 2
    params.type_k = params.type_v = 0
    params.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(row), 0, 1)
    batch.n_tokens = len(row)
    for at, id_ in enumerate(row):
        batch.token[at], batch.pos[at], batch.logits[at] = id_, at, True
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
    assert llama_cpp.llama_decode(context, batch) == 0
    shape = (len(row), llama_cpp.llama_vocab_n_tokens(vocab))
    np.save(out, np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape))
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)


def widen(model: str, out: str) -> None:
    """A copy of a file with all matrices as float32."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = 0
    done = llama_cpp.llama_model_quantize(model.encode(), out.encode(), ctypes.byref(params))
    assert done == 0


def prompt(model: Any, vocab: Any, messages: list[dict[str, str]]) -> str:
    """The embedded template's text for `messages`, as llama-cpp-python's chat renders it."""
    texts = {}
    for name in ("bos", "eos"):
        id_ = getattr(llama_cpp, f"llama_vocab_{name}")(vocab)
        texts[name] = llama_cpp.llama_vocab_get_text(vocab, id_).decode()
    template = llama_cpp.llama_model_chat_template(model, None).decode()
    formatter = Jinja2ChatFormatter(template, texts["eos"], texts["bos"])
    return formatter(messages=messages).prompt


def facts(vocab: Any) -> dict[str, Any]:
    ids = range(llama_cpp.llama_vocab_n_tokens(vocab))
    kinds = llama_cpp.llama_vocab_get_attr
    return {
        "stops": [id_ for id_ in ids if llama_cpp.llama_vocab_is_eog(vocab, id_)],
        "eos": llama_cpp.llama_vocab_eos(vocab),
        "eot": llama_cpp.llama_vocab_eot(vocab),
        "add_bos": llama_cpp.llama_vocab_get_add_bos(vocab),
        "kinds": [int(kinds(vocab, id_)) for id_ in ids],
    }


def main() -> None:
    path = sys.argv[1]
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False  # weights packed anew for AMX crash it, where that is built in
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    assert model, f"llama.cpp does not load {path}"
    vocab = llama_cpp.llama_model_get_vocab(model)
    for line in sys.stdin:
        asked = json.loads(line)
        answer: Any = None
        match asked.pop("ask"):
            case "tokens":
                around, special = asked["around"], asked["special"]
                answer = [tokenise(vocab, text, around, special) for text in asked["texts"]]
            case "logits":
                logits(model, vocab, **asked)
            case "widen":
                widen(path, **asked)
            case "prompt":
                answer = prompt(model, vocab, **asked)
            case "facts":
                answer = facts(vocab)
        print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
