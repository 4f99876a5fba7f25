"""A chat through llama-cpp-python, run as a program: a crash in C must not end the tests.

Arguments: a GGUF file, the messages as JSON, and a token to make certain, or -1. Prints JSON with
the prompt's token ids, why the answer ended, and the ids that were sampled.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import llama_cpp.llama_cpp as bindings
from llama_cpp import Llama

_defaults = bindings.llama_model_default_params


def _as_packed() -> Any:
    """Weights that are packed anew for AMX crash it, where that is built in."""
    params = _defaults()
    params.use_extra_bufts = False
    return params


def main() -> None:
    bindings.llama_model_default_params = _as_packed
    llama = Llama(sys.argv[1], n_ctx=512, verbose=False)
    prompts: list[list[int]] = []
    sampled: list[int] = []
    generate = llama.generate

    def watched(tokens: Any, *rest: Any, **settings: Any) -> Any:
        prompts.append(list(tokens))
        for token in generate(tokens, *rest, **settings):
            sampled.append(int(token))
            yield token

    llama.generate = watched
    certain = int(sys.argv[3])
    answer = llama.create_chat_completion(
        messages=json.loads(sys.argv[2]),
        max_tokens=8,
        temperature=0,
        logit_bias={certain: 100.0} if certain >= 0 else None,
    )["choices"][0]
    found = {
        "prompt": prompts[0],
        "ended": answer["finish_reason"],
        "sampled": sampled,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
