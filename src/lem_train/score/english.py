"""Verbs with their tense and nouns with their number, by rules, in one pass over a text.

Most English words can be several things ("the trust houses forty"). What a word is here follows
from what stands before it in its clause, from the word after it, and, where a subject still waits
for its verb, from whether another verb is in sight. `words` says what each word could be.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from .words import (
    ADVERB,
    BE,
    CONJUNCTION,
    DETERMINER,
    DO,
    HAVE,
    INTERJECTION,
    MARK,
    MODAL,
    NUMBER,
    OBJECT,
    POSSESSIVE,
    PREPOSITION,
    PRONOUN,
    QUANTIFIER,
    SUBJECT,
    SUBORDINATOR,
    TO,
    Word,
    look_up,
    words_of,
)

TENSES = ("base", "past", "gerund")
NUMBERS = ("singular", "plural")

# What an open word turned out to be, beside the three tenses.
_NOUN, _ADJECTIVE = "N", "J"
_VERB = "V"

_TOKEN = re.compile(
    r"[^\W\d_]+(?:['’-][^\W\d_]+)*(?:(?<=s)['’])?"  # a word with its apostrophes and hyphens
    r"|\d+(?:[.,:]\d+)*(?:(?:st|nd|rd|th|s|am|pm|k|m)(?![^\W_]))?"
    r"|[.!?…]+|[,;:—–]|[\"“”'‘’()]|\n+"
)
_LONGEST = 64  # characters
_SCAN = 10  # words looked ahead at most, so that time stays linear

_PHRASE = frozenset((DETERMINER, POSSESSIVE, NUMBER, QUANTIFIER))  # what opens a noun phrase
_OBJECT = _PHRASE | {OBJECT, PRONOUN}  # what can follow a verb, and hardly a noun
_FINITE = frozenset((BE, HAVE, DO, MODAL))
_INFINITIVE = frozenset((MODAL, TO, DO))  # what an infinitive follows
_STOPS = frozenset((MARK, SUBORDINATOR, SUBJECT, PRONOUN, CONJUNCTION))  # where a clause may end
_GOVERNORS = frozenset((_VERB, PREPOSITION, BE, HAVE, DO, MODAL))  # "you" after these is no subject
_SIDE = frozenset((CONJUNCTION, ","))  # what joins like with like

# "go to bed", not "to bed a plant".
_PLACES = words_of(
    "bed court school church town market hospital college prison jail university people men women "
    "heart life death mind mankind strangers lunch dinner breakfast"
)
_MANY = words_of("you we they us them ones others those these some many all both few most")
_SINGLE = words_of("this that each another either neither one")
_CAUSATIVE = words_of("let make help see hear watch have feel")
# Prepositions that can begin a clause.
_LINKS = words_of("before after since until till as than like except")
# -ing forms that stand as nouns before nouns; any other is an attribute there.
_THINGS = words_of(
    "building meeting wedding training parking housing heating hearing painting drawing clothing "
    "farming banking shopping swimming mining fishing cooking voting engineering accounting "
    "marketing lighting plumbing nursing boxing advertising gambling cycling running"
)
_PERCEPTION = words_of("see hear watch feel let")
# "I hope the plans work": what these govern may be a clause with a verb of its own.
_SAYING = words_of("say think know hope believe mean suppose guess wish fear tell feel show see")
_LASTING = words_of("keep go come sit stand lie spend catch find leave see hear watch")


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found, in the order of the text."""

    tokens: int  # words and numbers
    verbs: tuple[tuple[str, str, str], ...]  # (base, tense, form)
    nouns: tuple[tuple[str, str, str], ...]  # (base, number, form)
    articles: dict[str, int]  # "the" and "a"
    punctuation: dict[str, int]  # a run of marks ("?!", "...") counts once
    others: tuple[str, ...]  # the remaining words, in lower case


@dataclass(slots=True)
class _Clause:
    """Where the reading stands."""

    prev: str = MARK  # the kind of the word before, adverbs left out
    before: str = MARK  # and of the one before the last comma or conjunction
    aux: str = ""  # an auxiliary, modal or "to" that waits for its verb
    inverted: bool = False  # it stands before its subject, as in a question
    phrase: str = ""  # the kind that opened a noun phrase which has no noun yet
    plural: bool = False  # the last noun
    third: bool = False  # the pronoun before is he, she or it
    telling: bool = False  # or I or we: "I read" is mostly told of the past
    waiting: bool = False  # a subordinate clause came first
    relative: bool = False  # who, which or that, after a noun or pronoun
    finite: bool = False  # the clause has its verb
    joined: bool = False  # a comma or a conjunction went before: a new clause may have begun
    start: bool = True  # the sentence has no word yet
    tense: str = ""  # of the last verb, "third" for a present in -s
    verb: str = ""  # its base form


def analyse(text: str) -> Analysis:
    """Read a text. The same text gives the same analysis everywhere, in linear time.

    Forms of be, have and do are verbs, modals and contractions with a pronoun are not. A participle
    after be or have is a past, before a noun an adjective; an -ing form is a verb in a progressive
    or a participle clause, and a noun as subject, object or after a preposition.
    """
    tokens = _TOKEN.findall(text)
    words = [_read(token) for token in tokens]
    words += (_END, _END)
    verbs: list[tuple[str, str, str]] = []
    nouns: list[tuple[str, str, str]] = []
    others: list[str] = []
    marks: list[str] = []
    clause = _Clause()
    for i in range(len(tokens)):
        word = words[i]
        if word.kind == MARK:
            marks.append(word.form)
            _mark(clause, word.form)
            continue
        found = _closed(clause, words, i) if word.kind else _open(clause, words, i)
        if found == _NOUN:
            nouns.append((word.noun or word.form, NUMBERS[word.plural], word.form))
        elif found in TENSES:
            verbs.append((_base(word, found), found, word.form))
        else:
            others.append(word.form)
        clause.start = False
    counted = Counter(others)
    return Analysis(
        tokens=len(verbs) + len(nouns) + len(others),
        verbs=tuple(verbs),
        nouns=tuple(nouns),
        articles={"the": counted["the"], "a": counted["a"] + counted["an"]},
        punctuation={mark: marks.count(mark) for mark in MARKS},
        others=tuple(others),
    )


MARKS = (".", "?", "!", "…", ",", ";", ":", "—")
_END = Word(".", MARK)


def _read(token: str) -> Word:
    first = token[0]
    if first.isalpha():
        # What no word is long enough for is not worth remembering.
        return look_up(token) if len(token) < _LONGEST else look_up.__wrapped__(token)
    if first.isdecimal() or first.isnumeric():
        return Word(token, NUMBER)
    return _MARKS.get(token) or Word(_mark_form(token), MARK)


_SAME = {"–": "—", ")": "("} | dict.fromkeys("“”'‘’", '"')


def _mark_form(token: str) -> str:
    """A run of marks counts once: "?!" asks, "!!" exclaims, "..." trails off."""
    if token[0] in ".!?…":
        for mark in "?!":
            if mark in token:
                return mark
        return "." if token == "." else "…"
    return _SAME.get(token, token[0])


_MARKS = {token: Word(_mark_form(token), MARK) for token in (*'.!?…,;:—–"“”()\n', "\n\n", "...")}


def _base(word: Word, tense: str) -> str:
    if word.tense:
        return word.base
    if tense == "base":
        return word.base or word.third
    return word.past if tense == "past" else word.ing


def _mark(clause: _Clause, mark: str) -> None:
    """A comma joins, a quotation mark or bracket is looked through; the rest begins anew."""
    if mark in '"(':
        clause.start = True  # what is quoted may begin with a capital
        return
    if mark == ",":
        _join(clause, ",")
        return
    clause.prev = clause.before = MARK
    clause.aux = clause.phrase = clause.verb = clause.tense = ""
    clause.inverted = clause.finite = clause.joined = clause.waiting = False
    clause.third = clause.telling = clause.relative = clause.plural = False
    clause.start = clause.start or mark in ".?!…:\n"


def _join(clause: _Clause, kind: str) -> None:
    if clause.prev not in _SIDE:
        clause.before = clause.prev
    clause.prev = kind
    clause.joined = True
    clause.phrase = ""
    if clause.aux != BE:
        clause.aux = ""


def _closed(clause: _Clause, words: list[Word], i: int) -> str:
    """Take a word of the closed classes; returns its tense if it counts, a noun, or its kind."""
    word, after = words[i], words[i + 1]
    kind = word.kind
    if word.noun and clause.phrase in (DETERMINER, POSSESSIVE) and not _attributed(after):
        return _noun(clause, word)  # "the well", "a can", "my back"
    if kind == MODAL and word.capital and not clause.start:
        return _noun(clause, word, after)  # May, Will
    if word.then == BE and _is_possessive(word, after):
        clause.prev = clause.phrase = POSSESSIVE
        return POSSESSIVE
    if word.form in ("like", "back", "round") and _verb_is_due(clause, word, after):
        return _verb(clause, word, "base")  # "will back", "I like"
    if kind == ADVERB:
        if word.form == "home" and clause.prev in (PREPOSITION, POSSESSIVE, DETERMINER):
            return _noun(clause, word)
        return kind
    if word.tense:
        return _auxiliary(clause, words, i)
    if kind == MODAL:
        _await(clause, MODAL)
        return kind
    if kind == TO:
        return _to(clause, words, i)
    if kind == CONJUNCTION:
        _join(clause, CONJUNCTION)
        return kind
    if kind in _PHRASE:
        kind = _determiner(clause, words, i)
        if kind == ADVERB:
            return kind
    elif kind == PRONOUN and word.form == "her" and _is_hers(words, i):
        kind = clause.phrase = POSSESSIVE
    elif kind in (SUBJECT, SUBORDINATOR):
        clause.finite = clause.inverted and kind == SUBJECT
    elif kind == PRONOUN and clause.prev not in _GOVERNORS:
        clause.finite = clause.inverted
    if kind in (SUBJECT, OBJECT, PRONOUN, SUBORDINATOR):
        _pronoun(clause, word, kind)
        if not clause.inverted or kind == SUBORDINATOR:
            clause.aux = ""
    elif kind == PREPOSITION:
        clause.phrase = ""
        if word.form in _LINKS:
            clause.finite = False
        if clause.aux != BE:
            clause.aux = ""
    clause.prev = kind
    if word.then:
        _await(clause, word.then)
        if word.form.endswith("'d") and after.past and not after.base:
            clause.aux = HAVE
    return kind


def _pronoun(clause: _Clause, word: Word, kind: str) -> None:
    if kind == SUBORDINATOR:
        clause.waiting = clause.waiting or clause.prev == MARK
        clause.phrase = ""
        clause.relative = (word.form == "who" and clause.prev != MARK) or (
            word.form in ("that", "which") and clause.prev in (_NOUN, PRONOUN, OBJECT)
        )
        if clause.relative:
            return
    clause.third = word.form in ("he", "she", "it", "that", "which", "this")
    clause.plural = word.form in _MANY
    clause.telling = clause.third or word.form in ("i", "we")
    clause.phrase = ""


def _is_possessive(word: Word, after: Word) -> bool:
    """ "everyone's needs", "somebody else's", not "everyone's happy" nor "it's time"."""
    stem = word.form[:-2]
    somebody = stem.endswith(("one", "body", "else", "other"))
    return somebody and bool(after.noun) and after.lean in "NV"


def _is_hers(words: list[Word], i: int) -> bool:
    """Whether "her" belongs to a noun: "her coat", not "heard her closing the gate"."""
    after = words[i + 1]
    return _nominal(after) and not (after.ing and words[i + 2].kind in _OBJECT)


def _auxiliary(clause: _Clause, words: list[Word], i: int) -> str:
    """A form of be, have or do: a verb, and perhaps the auxiliary of the next one."""
    word = words[i]
    subject = clause.start and not words[i + 1].past
    if word.tense == "gerund" and (
        clause.prev == PREPOSITION or (subject and _is_subject(words, i))
    ):
        clause.prev, clause.aux = word.kind, word.kind if word.kind != DO else ""
        return _NOUN
    clause.verb, clause.tense = word.base, word.tense
    if word.form in ("being", "been", "having"):
        clause.prev = clause.aux = word.kind
    elif word.form in ("done", "doing"):
        clause.prev, clause.aux = _VERB, ""
    else:
        _await(clause, word.kind)
        clause.tense = "third" if word.form in ("is", "has", "does") else word.tense
    return word.tense


def _await(clause: _Clause, kind: str) -> None:
    """An auxiliary that waits for its verb; before the subject it waits past the subject."""
    clause.inverted = clause.prev in (MARK, SUBORDINATOR, CONJUNCTION, ",", INTERJECTION)
    clause.prev = clause.aux = kind
    clause.phrase = ""
    clause.finite = True
    clause.joined = False


def _to(clause: _Clause, words: list[Word], i: int) -> str:
    """Of an infinitive, or a preposition."""
    j = i + 1
    while words[j].kind == ADVERB and not words[j].base and words[j].form != "home":
        j += 1
    after = words[j]
    infinitive = after.tense == "base" or (after.base and not after.kind) or after.form == "back"
    if infinitive and not after.capital and after.form not in _PLACES:
        clause.aux = clause.prev = TO
        clause.inverted = False
        clause.phrase = ""
        return TO
    clause.aux = clause.phrase = ""
    clause.prev = PREPOSITION
    return PREPOSITION


def _determiner(clause: _Clause, words: list[Word], i: int) -> str:
    """A determiner, or a word like one: "that" may begin a clause, "some" may be a pronoun."""
    word, after = words[i], words[i + 1]
    if word.form == "that" and _begins_clause(clause, words, i):
        clause.finite, clause.aux, clause.phrase = False, "", ""
        return SUBORDINATOR
    if word.form in ("all", "both", "each") and clause.prev in (MODAL, SUBJECT):
        return ADVERB  # "we all need", "they will each ask"
    if clause.prev == _NOUN and word.kind in (DETERMINER, POSSESSIVE):
        clause.finite = False  # "the records the owner demands"
    if not clause.inverted:
        clause.aux = ""
    clause.third = word.form in _SINGLE
    if word.kind in (QUANTIFIER, NUMBER) and not _nominal(after) and not after.past:
        clause.phrase = ""
        return PRONOUN
    clause.phrase = word.kind
    return word.kind


def _begins_clause(clause: _Clause, words: list[Word], i: int) -> bool:
    """Whether "that" begins one ("said that nobody") or points at a noun ("that night")."""
    after = words[i + 1]
    if clause.prev in (_NOUN, _ADJECTIVE, OBJECT, PRONOUN):
        return not (clause.prev == _NOUN and after.form in ("night", "day", "year", "time"))
    if clause.prev not in (_VERB, CONJUNCTION, ","):
        return False
    if after.kind in _OBJECT or after.kind in (SUBJECT, SUBORDINATOR) or after.capital:
        return clause.prev == _VERB or after.kind != PRONOUN
    return clause.prev == _VERB and (after.plural or _verb_ahead(words, i + 1))


def _attributed(word: Word) -> bool:
    """Whether what stands before this word must be its attribute: "the back door"."""
    return not word.kind and (bool(word.noun) or (word.adjective and not word.past))


def _nominal(word: Word) -> bool:
    """Whether a noun phrase can go on with this word."""
    if word.kind:
        return word.kind == NUMBER
    return bool(word.noun or word.adjective) or bool(word.past and word.lean == "S")


def _verb_ahead(words: list[Word], i: int) -> bool:
    """Whether a certain finite verb comes after the i-th word, before its clause may end."""
    for j in range(i + 1, min(i + _SCAN, len(words))):
        word = words[j]
        if word.kind in _STOPS:
            return False
        if word.kind in _FINITE or word.then in _FINITE:
            return True
        if _is_certain(word):
            return True
    return False


def _is_certain(word: Word) -> bool:
    """Whether a word of the open classes can be nothing but a finite verb, or a participle."""
    possible = word.third or word.past
    return bool(possible) and not (word.kind or word.noun or word.adjective)


def _verb_is_due(clause: _Clause, word: Word, after: Word) -> bool:
    """For "like", "back" and their kin: whether they are verbs here."""
    prev = clause.prev
    if prev in _INFINITIVE:
        return prev != DO or not clause.inverted
    if prev in (SUBJECT, PRONOUN) and clause.aux in _INFINITIVE:
        return True
    if word.form != "like" or clause.aux == BE:
        return False
    if prev in (SUBJECT, PRONOUN):
        return not clause.third and not clause.finite
    return prev == _NOUN and clause.plural and not clause.finite and after.kind in _OBJECT


def _open(clause: _Clause, words: list[Word], i: int) -> str:
    """Decide what a word of the open classes is, and take it."""
    word, after = words[i], words[i + 1]
    named = word.capital and not clause.start and not (word.adjective and _nominal(after))
    if word.name or named:
        return _noun(clause, word, after)
    if word.ing:
        found = _ing(clause, words, i)
        if found == _NOUN:
            return _noun(clause, word, after)
        return _verb(clause, word, found) if found == "gerund" else _adjective(clause)
    if (word.base or word.third or word.past) and (tense := _tense(clause, words, i)):
        return _verb(clause, word, tense)
    if word.adverb and not (word.adjective and (clause.phrase or clause.prev == BE)):
        return ADVERB
    if word.noun and not _attribute(clause, word, after):
        return _noun(clause, word, after)
    if word.adjective or word.past or word.noun:
        return _adjective(clause)
    return _verb(clause, word, "base") if word.base or word.third else ADVERB


def _attribute(clause: _Clause, word: Word, after: Word) -> bool:
    """Whether a word that could be noun or adjective is an adjective."""
    if not word.adjective or word.then or (after.form == "of" and clause.prev != BE):
        return False
    if clause.phrase:
        return _nominal(after) and (word.lean != "N" or bool(after.noun and not after.adjective))
    if word.lean == "N":
        return False
    return clause.prev != PREPOSITION or _nominal(after)


def _noun(clause: _Clause, word: Word, after: Word = _END) -> str:
    """Take a noun; with an 's it owns what follows, or is followed by "is"."""
    clause.prev = _NOUN
    clause.plural = word.plural
    clause.third = False
    clause.phrase = ""
    if word.then:
        if after.form in ("been", "not") or after.kind in (DETERMINER, PREPOSITION):
            _await(clause, BE)
        else:
            clause.prev = clause.phrase = POSSESSIVE
            return _NOUN
    if not clause.inverted:
        clause.aux = clause.aux if clause.aux == BE else ""
    return _NOUN


def _adjective(clause: _Clause) -> str:
    clause.prev = _ADJECTIVE
    return _ADJECTIVE


def _verb(clause: _Clause, word: Word, tense: str) -> str:
    if tense != "gerund" and clause.aux != TO:
        clause.finite = True
    clause.prev = _VERB
    clause.aux = clause.phrase = ""
    clause.inverted = clause.joined = False
    clause.tense = "third" if tense == "base" and not word.base else tense
    clause.verb = _base(word, tense)
    return tense


def _ing(clause: _Clause, words: list[Word], i: int) -> str:
    """Of an -ing form: "gerund" for a verb, a noun or an adjective."""
    word, after, prev = words[i], words[i + 1], clause.prev
    if clause.phrase or prev == _ADJECTIVE:
        if _nominal(after) and not after.kind and word.form not in _THINGS:
            return _ADJECTIVE
        return _NOUN
    if prev == BE or (clause.aux == BE and prev in (SUBJECT, PRONOUN, _NOUN)):
        return _ADJECTIVE if word.lean == "S" and after.kind not in _OBJECT else "gerund"
    if prev == PREPOSITION:
        return _NOUN
    if prev == _VERB:
        if clause.verb == "let":
            return _ADJECTIVE
        return "gerund" if clause.verb in _LASTING or clause.verb == "be" else _NOUN
    if prev == MARK:
        return _NOUN if _is_subject(words, i) else "gerund"
    if prev == CONJUNCTION and clause.finite and _verb_ahead(words, i):
        return _NOUN  # "and asking costs nothing"
    if prev in _SIDE and clause.before in (_NOUN, PREPOSITION) and not clause.finite:
        return _NOUN if word.noun else "gerund"
    if prev == _NOUN and word.noun and word.lean == "N" and after.kind not in _OBJECT:
        return _NOUN
    return "gerund"


def _is_subject(words: list[Word], i: int) -> bool:
    """Whether an -ing form that opens a clause is its subject: no comma comes before the verb."""
    for j in range(i + 1, min(i + _SCAN, len(words))):
        word = words[j]
        if word.kind in (MARK, SUBJECT):
            return word.kind == MARK and word.form != ","
        if word.kind in _FINITE or _is_certain(word):
            return True
    return False


def _tense(clause: _Clause, words: list[Word], i: int) -> str:
    """The tense, if a word that could be a verb is one; else ""."""
    word, after, prev = words[i], words[i + 1], clause.prev
    if clause.phrase:
        return _in_phrase(clause, word, after)
    asked = clause.inverted and prev != PREPOSITION
    if word.base and (prev in _INFINITIVE or (asked and clause.aux in _INFINITIVE)):
        return "base"
    if prev in (BE, HAVE) or (clause.inverted and clause.aux in (BE, HAVE)):
        if word.past and (prev == HAVE or after.form == "by" or not _is_state(word, after)):
            return "past"
        if prev in (BE, HAVE):
            return ""
    if prev in (SUBJECT, PRONOUN, SUBORDINATOR):
        return _after_pronoun(clause, words, i)
    if prev == _NOUN:
        return _after_noun(clause, words, i)
    if prev in (PREPOSITION, _ADJECTIVE):
        return "" if word.noun or word.adjective or _nominal(after) else _finite(clause, word)
    if prev == OBJECT:
        if clause.verb in _CAUSATIVE and word.base:
            return "base"
        noun = word.noun and (word.lean != "V" or _verb_ahead(words, i))
        return "" if noun else _finite(clause, word)
    if prev == _VERB:
        return _after_verb(clause, word, after)
    if prev in _SIDE:
        return _joined(clause, words, i)
    return _opening(words, i)


def _is_state(word: Word, after: Word) -> bool:
    """Of a participle after be: "was tired", "is skilled work"; not "was rejected"."""
    return word.lean in "SJ" or (word.adjective and _nominal(after))


def _finite(clause: _Clause, word: Word) -> str:
    """The tense of a finite verb: "he read" is a past, "they read" a present."""
    if word.past and (not word.base or clause.telling):
        return "past"
    return "base"


def _in_phrase(clause: _Clause, word: Word, after: Word) -> str:
    """After a determiner there is no verb, except after those that are pronouns too."""
    if clause.phrase != QUANTIFIER:
        return "" if word.noun or word.adjective or word.past else "base"
    if word.past and not word.noun and not _nominal(after):
        return "past"
    if word.noun or word.adjective or _nominal(after):
        direct = clause.prev == QUANTIFIER and clause.third and after.kind in _OBJECT
        return "base" if direct and word.third else ""  # "each needs a licence"
    return _finite(clause, word)


def _after_pronoun(clause: _Clause, words: list[Word], i: int) -> str:
    """Mostly its verb; after if, when or why more likely a subject."""
    word, after, prev = words[i], words[i + 1], clause.prev
    asked = words[i - 1].form in ("who", "what", "which")
    if asked and word.third and after.kind in (OBJECT, DETERMINER, POSSESSIVE):
        return "base"  # "what worries me"
    if prev == SUBORDINATOR and (word.noun or word.adjective) and not _relates(clause, word):
        if words[i - 1].form not in ("who", "that", "which", "what"):
            certain = word.past and not word.base and not _verb_ahead(words, i)
            return _finite(clause, word) if certain else ""
        if _verb_ahead(words, i) or (word.base and not word.past and words[i - 1].form != "who"):
            return "base" if after.kind in _OBJECT and word.base and word.lean == "V" else ""
    if clause.finite and word.noun and word.lean != "V":
        return "base" if clause.verb in _CAUSATIVE and word.base else ""
    if word.lean in "SJ" and prev == PRONOUN and not word.third and after.kind not in _OBJECT:
        return ""
    return _finite(clause, word)


def _relates(clause: _Clause, word: Word) -> bool:
    """Whether a word after who, which or that can be the verb of what they refer to."""
    if not clause.relative:
        return False
    return bool(word.third or word.past or (word.base and (clause.plural or word.lean == "V")))


def _after_noun(clause: _Clause, words: list[Word], i: int) -> str:
    """A verb if the noun is a subject that agrees and waits for one, else part of a compound."""
    word, after = words[i], words[i + 1]
    if word.past and not word.base and not word.noun:
        return "past"
    if clause.verb in _CAUSATIVE and clause.finite and word.base:
        seen = clause.verb in _PERCEPTION and not _nominal(after) and after.kind not in _FINITE
        return "base" if not word.noun or after.kind in _OBJECT or word.lean == "V" or seen else ""
    if word.base and after.kind == OBJECT:
        return _subject_tense(clause, word)
    agrees = bool(word.past or (word.base if clause.plural else word.third))
    if not word.noun and not word.adjective:
        return _subject_tense(clause, word)
    finite = clause.finite and clause.verb not in _SAYING
    if word.third and not finite and after.kind in (DETERMINER, POSSESSIVE, OBJECT):
        return "base"  # "one of the guards guards the gate"
    if not agrees or (finite and not clause.joined):
        return _subject_tense(clause, word) if after.kind in _OBJECT and agrees else ""
    if after.kind in _OBJECT:
        return _subject_tense(clause, word)
    if finite and after.kind != PREPOSITION and word.lean != "V":
        return ""
    return "" if _verb_ahead(words, i) else _subject_tense(clause, word)


def _subject_tense(clause: _Clause, word: Word) -> str:
    """After a noun as subject: a singular with a bare form tells a past ("the council cut")."""
    if word.past and (not word.base or not clause.plural):
        return "past"
    return "base"


def _after_verb(clause: _Clause, word: Word, after: Word) -> str:
    """Mostly an object or a complement; an infinitive after a few verbs ("help find")."""
    if clause.verb in ("let", "help", "go", "come", "dare") and word.base and word.lean not in "JS":
        return "base" if word.lean == "V" or after.kind in _OBJECT else ""
    if word.noun or word.adjective or (word.past and _nominal(after)):
        return ""
    return _finite(clause, word)


def _joined(clause: _Clause, words: list[Word], i: int) -> str:
    """After a comma or a conjunction: like what went before, where that can be told."""
    word, after = words[i], words[i + 1]
    if word.past and not word.base:
        if clause.before == _ADJECTIVE or (_nominal(after) and word.adjective):
            return ""
        direct = after.kind in _OBJECT
        return "past" if not word.noun or direct or clause.tense == "past" else ""
    if not word.noun and not word.adjective:
        return "past" if word.past and clause.tense == "past" else "base"
    if clause.waiting and word.base and not _nominal(after):
        clause.waiting = False
        return "" if _verb_ahead(words, i) else "base"
    like = (word.third and clause.tense == "third") or (word.base and clause.tense == "base")
    if word.past and clause.tense == "past" and after.kind in _OBJECT | {PREPOSITION}:
        return "past"
    if like and (after.kind in _OBJECT or clause.before == _VERB):
        return "base"
    if word.base and word.lean == "V" and not _nominal(after) and not _verb_ahead(words, i):
        return "base"
    if word.base and after.kind in _OBJECT and not _verb_ahead(words, i):
        return "base"
    return "base" if like and word.lean == "V" and not _verb_ahead(words, i) else ""


def _opening(words: list[Word], i: int) -> str:
    """At the start of a clause: an imperative, or the participle of a shortened one."""
    word, after = words[i], words[i + 1]
    if word.base:
        if not word.noun and not word.adjective:
            return "base"
        if after.kind in _OBJECT:
            return "base"
        if word.lean == "V" or after.kind in (TO, PREPOSITION, SUBORDINATOR, ADVERB):
            subject = (after.third and after.lean == "V") or _verb_ahead(words, i)
            return "" if subject or word.adjective else "base"
        return ""
    if word.past and not word.noun and not (_nominal(after) or word.adjective):
        return "past"
    return "" if word.noun or word.adjective or _nominal(after) else "base"
