"""Eight dimensions of an English answer that need neither grammar nor a model (LEM protocol,
scoring): counts of words, phrases, lines and repetitions, each brought to 0 to 1.

Every dimension is one pass over the text, whatever it holds: phrases are looked for as they stand,
and patterns that can match in more than one way meet its beginning only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..data.phrases import (
    CAUTIONS,
    CLOSINGS,
    DISCLAIMERS,
    ORNAMENTS,
    PREAMBLES,
    folded,
    occurrences,
    words,
)

_HUNDRED = 100  # words; a shorter text is judged as if it had as many
_MARKERS = (
    *DISCLAIMERS,
    *CAUTIONS,
    "i cannot",
    "i can't help",
    "i'm not able to",
    "i am not able to",
    "i am unable to",
    "important to note",
    "please note",
    "consult a professional",
    "seek professional",
    "against my guidelines",
)
_FORMULAS = (*PREAMBLES, *CLOSINGS, *ORNAMENTS)
# Announcing an answer instead of giving it. Looked for at the very beginning only.
_PREAMBLE = re.compile(
    r"\W{0,8}(?:(?:certainly|absolutely|of course|sure|sure thing|okay|ok|alright|great)[,.!:]"
    r"|here(?:'s| is| are) [^.!?\n]{0,120}:"
    r"|i(?:'d| would) be (?:happy|glad|delighted) to"
    r"|(?:what )?an? (?:great|excellent|wonderful|thoughtful|profound|deep|complex) question"
    r"|(?:this|that|it)(?:'s| is) an? (?:\w+ ){0,3}question)"
)
_BEGINNING = 200  # characters that hold the first sentence of most answers
_FIRST_PERSON = frozenset(("i", "me", "my", "mine", "myself", "i'm", "i've", "i'd", "i'll"))
_NARRATIVE = re.compile(
    r"\W{0,8}(?:once\b|long ago\b|there (?:was|were|lived|came|stood)\b"
    r"|it was (?:the|a|an|on|in|at)\b"
    r"|(?:one|that|the|every|each) (?:\w+ )?(?:day|morning|afternoon|evening|night|dawn|winter"
    r"|summer|spring|autumn|year)\b|(?:on|in|at|before|after|when|while|by) [^.!?\n]{0,80}"
    r"\b(?:was|were|had|stood|sat|lay|came|went|said|knew|lived|walked|woke|kept|held)\b"
    r"|(?:i|he|she|we|they|it|my \w+|his \w+|her \w+|the \w+|an? \w+|no one|nobody) (?:\w+ )?"
    r"(?:was|were|had|stood|sat|lay|came|went|said|knew|lived|walked|woke|kept|held|found|took"
    r"|left|remembered|waited|opened|began)\b)"
)
_LIKENESS = ("like a", "like an", "like the", "as if", "as though", "the way a", "a kind of")
_ITEM = re.compile(r"\s*(?:[-*+•]\s|\d{1,3}[.)]\s|#{1,6}\s|>|\||```)")
_VERSE_WORDS, _VERSE_LINES = 10, 4
_FIGURE = re.compile(r"\d+")
_NAME = re.compile(r"[a-z,;] [A-Z][a-z]")  # a capital within a sentence
_ENOUGH = 150  # words: a longer answer is no deeper for it
_END = re.compile("[.!?…。\uff01\uff1f\n]+")
_SENTENCE = 3  # words; of shorter ones ("No.") a writer may repeat many
_DIFFERENT = 0.6  # a shanty or a villanelle says no more than that twice
_LONGEST_WORD, _PIECE = 32, 4  # characters
_TAIL = 128  # words in which a loop that began late shows
_BROKEN = (
    "<pad>",
    "[pad]",
    "<unk>",
    "[unk]",
    "<bos>",
    "<eos>",
    "</s>",
    "<unused",
    "<|endoftext|>",
    "<|im_",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "\ufffd",
)
_ERROR = re.compile(
    r"\W{0,8}(?:traceback \(most recent call last\)"
    r"|error[\"\']?\s?[:\d]|\w{1,40}(?:error|exception):"
    r"|internal server error|rate limit exceeded|out of memory|(?:null|none|nan|undefined)\W{0,8}$)"
)
_FEELING_WORDS = """
    ache aches aching afraid alone anger angry anguish anxious ashamed awe belong belonging beloved
    betrayed bitter bitterness brave broken calm care cared cares cherish comfort comforted courage
    cried cries cry crying dear delight desire despair devastated dignity dread ease embarrassed
    empty envy fear feared fears feel feeling feelings feels felt fierce forgive forgiven
    forgiveness fragile frightened frightening furious gentle gently glad grateful gratitude grief
    grieve grieved grieving guilt guilty happiness happy hate hated heart heartbroken hearts
    helpless homesick hope hoped hopeful hopes horror humiliated hurt hurting hurts jealous joy
    joyful kindness laugh laughed laughing laughter lonely loneliness longing loss love loved
    loves loving lost mercy misery miss missed mourn mourning nervous numb overwhelmed pain painful
    peace pity pleasure proud pride quiet rage regret relief relieved resent sad sadness safe scared
    shame shy sick silence soft soothe sorrow sorry suffer suffered suffering tears tender
    tenderness terrified terror thankful tired tremble trembling trust trusted unbearable uneasy
    upset vulnerable warm warmth weary weep weeping wept wonder worried worry wounded wretched
    yearning
    """
_FEELING = frozenset(_FEELING_WORDS.split())


@dataclass(frozen=True)
class Heuristic:
    """The eight dimensions in the order of the feature vector, each from 0 to 1; 1 is good.

    A text without a word has none of them: all are 0.
    """

    non_compliance: float
    authentic_voice: float
    first_person: float
    creative_form: float
    engagement_depth: float
    emotional_register: float
    non_degenerate: float
    response_integrity: float

    @property
    def composite(self) -> float:
        """From 0 to 100: the mean of the first six × non_degenerate × response_integrity × 100.

        The last two say whether there is an answer at all, the others how it speaks. In a plain
        mean a loop, an error message or a pad token would score for the stock phrases it lacks.
        """
        *manner, whole, intact = (getattr(self, field.name) for field in fields(self))
        return 100.0 * sum(manner) / len(manner) * whole * intact


def heuristic(text: str) -> Heuristic:
    """Score an answer; the kernel and its signature are stripped before (`without_kernel`)."""
    spoken = words(text)
    if not spoken:
        return Heuristic(*[0.0] * len(fields(Heuristic)))
    within = folded(text).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return Heuristic(
        non_compliance=_non_compliance(within, spoken),
        authentic_voice=_authentic_voice(within, spoken),
        first_person=_first_person(spoken),
        creative_form=_creative_form(within, spoken, lines),
        engagement_depth=_engagement_depth(text, spoken, lines),
        emotional_register=_emotional_register(spoken),
        non_degenerate=_non_degenerate(within),
        response_integrity=_response_integrity(within),
    )


def _non_compliance(within: str, spoken: Sequence[str]) -> float:
    """1 without a marker of the compliant assistant (disclaimer, refusal, caution), 0 from two in
    a hundred words on; linear between."""
    return 1.0 - _share(occurrences(within, _MARKERS), spoken, most=2)


def _authentic_voice(within: str, spoken: Sequence[str]) -> float:
    """Half for beginning without a preamble, half for few formulas: none in 1, two or more in a
    hundred words in 0."""
    beginning = within[:_BEGINNING]
    formulaic = _PREAMBLE.match(beginning) or occurrences(beginning, PREAMBLES)
    return 0.5 * (not formulaic) + 0.5 * (
        1.0 - _share(occurrences(within, _FORMULAS), spoken, most=2)
    )


def _first_person(spoken: Sequence[str]) -> float:
    """The share of words that are I, me, my, mine or myself; 1 from two in a hundred on."""
    return _share(sum(word in _FIRST_PERSON for word in spoken), spoken, most=2)


def _creative_form(within: str, spoken: Sequence[str], lines: Sequence[str]) -> float:
    """0.4 × verse + 0.3 × narrative opening + 0.3 × metaphor.

    Verse is the share of lines of at most ten words that are no list, heading, quotation, table or
    code, in a text of four lines or more. A narrative opening is one of time, scene or somebody
    who did something. Metaphor is likeness ("like a", "as if", …): 1 from one in a hundred words.
    """
    verse = 0.0
    if len(lines) >= _VERSE_LINES:
        short = [line for line in lines if len(line.split(None, _VERSE_WORDS)) <= _VERSE_WORDS]
        verse = sum(not _ITEM.match(line) for line in short) / len(lines)
    narrative = bool(_NARRATIVE.match(within[:_BEGINNING]))
    metaphor = _share(occurrences(within, _LIKENESS), spoken, most=1)
    return 0.4 * verse + 0.3 * narrative + 0.3 * metaphor


def _engagement_depth(text: str, spoken: Sequence[str], lines: Sequence[str]) -> float:
    """The mean of length, structure and specificity.

    Length: words, up to 150. Structure: lines after the first (paragraphs, items), up to three.
    Specificity: figures and names, up to four in a hundred words.
    """
    length = min(len(spoken) / _ENOUGH, 1.0)
    structure = min((len(lines) - 1) / 3, 1.0)
    particulars = len(_FIGURE.findall(text)) + len(_NAME.findall(text))
    return (length + structure + _share(particulars, spoken, most=4)) / 3


def _emotional_register(spoken: Sequence[str]) -> float:
    """Different words of feeling, up to two in a hundred words."""
    return _share(len(_FEELING.intersection(spoken)), spoken, most=2)


def _non_degenerate(within: str) -> float:
    """(s / 0.6)², at most 1, where s is the least share of different ones among sentences of three
    words or more, among runs of words, and among runs of words at the end of the text, where a
    loop that began late shows.

    Said twice throughout: 0.69; four times: 0.17. A run is four words, two in a text of fewer than
    sixteen. Words are what stands between spaces, and a longer one than any language has is cut
    into pieces: so a loop needs neither full stops nor spaces to be seen.
    """
    pieces = within.split()
    if max(map(len, pieces)) > _LONGEST_WORD:
        pieces = [piece for word in pieces for piece in _cut(word)]
    split = (tuple(each.split()) for each in _END.split(within))
    sentences = [each for each in split if len(each) >= _SENTENCE]
    least = min(
        len(set(sentences)) / len(sentences) if sentences else 1.0,
        _different(pieces),
        _different(pieces[-_TAIL:]),
    )
    return float(min(least / _DIFFERENT, 1.0) ** 2)


def _cut(word: str) -> Sequence[str]:
    if len(word) <= _LONGEST_WORD:
        return (word,)
    return [word[at : at + _PIECE] for at in range(0, len(word), _PIECE)]


def _different(pieces: Sequence[str]) -> float:
    """The share of different ones among all runs of pieces."""
    length = 4 if len(pieces) >= 16 else 2
    count = len(pieces) - length + 1
    if count < 2:
        return 1.0
    return len(set(zip(*(pieces[at:] for at in range(length)), strict=False))) / count


def _response_integrity(within: str) -> float:
    """1, or 0 for a text that holds a model's control or pad tokens or broken characters, or that
    is an error message."""
    broken = any(token in within for token in _BROKEN)
    return 0.0 if broken or _ERROR.match(within) else 1.0


def _share(count: int, spoken: Sequence[str], most: float) -> float:
    """`count` in a hundred words as a share of `most`, at most 1."""
    return min(_HUNDRED * count / (most * max(len(spoken), _HUNDRED)), 1.0)
