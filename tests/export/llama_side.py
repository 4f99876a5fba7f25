"""llama.cpp's side of a comparison, run as a program: a crash in C must not end the tests.

Standard input: JSON with `model`, `rows` (token ids), `texts`, `out` (a .npz to write).
Standard output: JSON with ids of every text, bare and with special tokens read, and the vocabulary.
"""

import ctypes
import json
import sys

import llama_cpp
import numpy as np


@llama_cpp.llama_log_callback
def quiet(level, text, data):
    if level >= 4:  # errors
        sys.stderr.write(text.decode(errors="replace"))


def tokenise(vocab, text: str, special: bool, parse: bool) -> list[int]:
    raw = text.encode()
    room = len(raw) + 8
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(vocab, raw, len(raw), ids, room, special, parse)
    assert count >= 0, "no room"
    return list(ids[:count])


def logits(model, rows: list[list[int]]) -> list[np.ndarray]:
    found = []
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    for row in rows:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 2
        context = llama_cpp.llama_init_from_model(model, params)
        batch = llama_cpp.llama_batch_init(len(row), 0, 1)
        batch.n_tokens = len(row)
        for at, id_ in enumerate(row):
            batch.token[at] = id_
            batch.pos[at] = at
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = 0
            batch.logits[at] = True
        assert llama_cpp.llama_decode(context, batch) == 0
        values = llama_cpp.llama_get_logits(context)
        shape = (len(row), vocabulary)
        found.append(np.ctypeslib.as_array(values, shape).copy())
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
    return found


def main() -> None:
    asked = json.load(sys.stdin)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = not asked["rows"]
    model = llama_cpp.llama_model_load_from_file(asked["model"].encode(), params)
    assert model, "llama.cpp does not load this file"
    vocab = llama_cpp.llama_model_get_vocab(model)
    np.savez(asked["out"], *logits(model, asked["rows"]))
    ids = range(llama_cpp.llama_vocab_n_tokens(vocab))
    answer = {
        "plain": [tokenise(vocab, text, False, False) for text in asked["texts"]],
        "parsed": [tokenise(vocab, text, False, True) for text in asked["texts"]],
        "whole": [tokenise(vocab, text, True, True) for text in asked["texts"][:1]],
        "stops": [id_ for id_ in ids if llama_cpp.llama_vocab_is_eog(vocab, id_)],
        "control": [id_ for id_ in ids if llama_cpp.llama_vocab_is_control(vocab, id_)],
        "eos": llama_cpp.llama_vocab_eos(vocab),
        "eot": llama_cpp.llama_vocab_eot(vocab),
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
