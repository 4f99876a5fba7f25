"""The form of columns, found from the values that rows hold: nothing is lost, nothing guessed.

A form is None (nothing but null so far), a name of a type, a list's form in a tuple, or the forms
of an object's keys. Values that do not go together become JSON text.
"""

from __future__ import annotations

import json
import math
from typing import Any

Form = None | str | tuple["Form"] | dict[str, "Form"]

TEXT, TRUTH, WHOLE, REAL, ANY = "string", "bool", "int64", "float64", "json"
_EXACT = 1 << 53  # integers up to there are the same as float64
_MOST_KEYS = 100  # of an object; more are data, not columns
_DEEPEST = 8


def form_of(value: Any, depth: int = 0) -> Form:
    """The form of one value."""
    if value is None:
        return None
    if isinstance(value, bool):
        return TRUTH
    if isinstance(value, int):
        return WHOLE if abs(value) <= _EXACT else ANY
    if isinstance(value, float):
        return REAL if math.isfinite(value) else ANY
    if isinstance(value, str):
        return TEXT
    if depth == _DEEPEST or (isinstance(value, dict) and len(value) > _MOST_KEYS):
        return ANY
    if isinstance(value, list):
        form: Form = None
        for item in value:
            form = both(form, form_of(item, depth + 1))
        return (form,)
    return {key: form_of(item, depth + 1) for key, item in value.items()}


def both(one: Form, other: Form) -> Form:
    """The form of a column that has values of either form."""
    if one == other or other is None:
        return one
    if one is None:
        return other
    if isinstance(one, tuple) and isinstance(other, tuple):
        return (both(one[0], other[0]),)
    if isinstance(one, dict) and isinstance(other, dict):
        joined = {key: both(one.get(key), other.get(key)) for key in {**one, **other}}
        return joined if len(joined) <= _MOST_KEYS else ANY
    return REAL if {_named(one), _named(other)} == {WHOLE, REAL} else ANY


def settled(form: Form) -> Form:
    """The form that is written: only nulls become text, an object without keys JSON."""
    if form is None:
        return TEXT
    if isinstance(form, tuple):
        return (settled(form[0]),)
    if isinstance(form, dict):
        return {key: settled(each) for key, each in form.items()} or ANY
    return form


def fitted(value: Any, form: Form) -> Any:
    """A value as a column of this form holds it."""
    if value is None:
        return None
    if form == ANY:
        return json.dumps(value, ensure_ascii=False)
    if form == REAL:
        return float(value)
    if isinstance(form, tuple):
        return [fitted(item, form[0]) for item in value]
    if isinstance(form, dict):
        return {key: fitted(value.get(key), each) for key, each in form.items()}
    return value


def holds_json(form: Form) -> bool:
    """Whether any of it is JSON text."""
    if isinstance(form, dict):
        return any(map(holds_json, form.values()))
    return holds_json(form[0]) if isinstance(form, tuple) else form == ANY


def feature(name: str, form: Form) -> dict[str, Any]:
    """A column as the metadata of a dataset card name it."""
    return {"name": name, **_feature(form)}


def _feature(form: Form) -> dict[str, Any]:
    if isinstance(form, dict):
        return {"struct": [feature(key, each) for key, each in form.items()]}
    if isinstance(form, tuple):
        inner = _feature(form[0])
        return {"list": inner.get("struct") or inner.get("dtype") or inner}
    return {"dtype": TEXT if form == ANY else form}


def _named(form: Form) -> str:
    return form if isinstance(form, str) else ""
