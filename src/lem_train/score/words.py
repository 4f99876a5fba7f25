"""What a word can be: the closed classes by hand, everything else from a lexicon of English.

The lexicon is lemminflect's table, which comes with the package. It knows every use that a word
ever had ("this" as a noun, "people" as a verb), so the lists here say which of them not to count
on, and which to prefer where the context decides nothing. A word that the table doesn't have is
read by its ending.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import lemminflect

# Kinds of the closed classes. Words of the open classes have none.
DETERMINER, QUANTIFIER, NUMBER, POSSESSIVE = "D", "Q", "#", "G"
PREPOSITION, CONJUNCTION, SUBORDINATOR = "P", "C", "S"
SUBJECT, OBJECT, PRONOUN = "I", "O", "Y"  # I, me, you
BE, HAVE, DO, MODAL, TO = "B", "H", "X", "M", "T"
ADVERB, INTERJECTION, MARK = "R", "E", "."


@dataclass(frozen=True, slots=True)
class Word:
    """What a token can be. The verb and noun readings are base forms, or empty."""

    form: str  # in lower case, with straight apostrophes; a mark in its counted form
    kind: str = ""  # of the closed classes
    then: str = ""  # the verb that a contraction ends with: "it's" is a pronoun and then BE
    tense: str = ""  # of a counted form of be, have or do; `base` is then its verb
    base: str = ""  # as infinitive, imperative or present
    third: str = ""  # as third person: "answers"
    past: str = ""
    ing: str = ""
    noun: str = ""
    plural: bool = False
    adjective: bool = False
    adverb: bool = False
    lean: str = "N"  # N, V, J, or S for a state ("tired"): where nothing else decides
    capital: bool = False
    name: bool = False  # not in the lexicon, and capitalised


def words_of(words: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(words.split())


_CLASSES = {
    DETERMINER: "the a an every no",
    POSSESSIVE: "my your our their its whose his thy",
    QUANTIFIER: "some any all both each many few several most more much less fewer enough another "
    "other either neither one such this these those that whatever whichever",
    NUMBER: "two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty "
    "ninety hundred thousand million billion dozen first third same",
    PREPOSITION: "of in on at by with from into onto upon for about between among amongst against "
    "without within through throughout during across behind beyond beside besides despite toward "
    "towards via per above below beneath underneath near off around over under along past amid "
    "inside outside except unlike concerning regarding than as like after before since until "
    "till round up down out",
    CONJUNCTION: "and or but nor yet plus &",
    SUBORDINATOR: "if because although though unless while whilst whereas when whenever where "
    "wherever whether why how what who whom which whoever once lest however",
    SUBJECT: "i he she we they there ye thou",
    OBJECT: "me him us them myself yourself himself herself itself ourselves yourselves themselves "
    "oneself mine yours hers ours theirs thee",
    PRONOUN: "you it her everyone everybody everything someone somebody something anyone anybody "
    "anything nobody nothing none others ones no-one",
    MODAL: "can could will would shall should may might must ought cannot can't couldn't won't "
    "wouldn't shan't shouldn't mayn't mightn't mustn't oughtn't needn't cant wont",
    TO: "to",
    ADVERB: "not never too very quite rather so then here now just only also even still already "
    "always often sometimes seldom ever again away back together apart maybe perhaps almost soon "
    "later twice instead anyway else well ago today tomorrow tonight yesterday far forward forth "
    "aside ahead indeed thus hence therefore otherwise meanwhile moreover furthermore nevertheless "
    "nonetheless somewhere anywhere nowhere everywhere somehow anyhow really truly merely simply "
    "hardly barely nearly mostly partly scarcely please forever afterwards beforehand upstairs "
    "downstairs abroad home o'clock am pm",
    INTERJECTION: "yes oh ah hello hi hey okay ok yeah alas hmm ha o hush goodbye thanks lol haha "
    "pls plz",
}

# A form of be, have or do: the counted ones, by tense. Contractions of a negation are one verb.
_AUXILIARIES = {
    BE: (
        "be",
        "be am is are isn't aren't ain't isnt arent",
        "was were been wasn't weren't wasnt",
        "being",
    ),
    HAVE: ("have", "have has hast hath haven't hasn't havent hasnt", "had hadn't", "having"),
    DO: ("do", "do does doth dost don't doesn't dont doesnt", "did done didn't didnt", "doing"),
}
_ENDINGS = {"'m": BE, "'re": BE, "'s": BE, "'ve": HAVE, "'ll": MODAL, "'d": MODAL}

_CARELESS = {
    form.replace("'", ""): form
    for form in words_of("i'm i've he's she's that's there's what's they're they've you're")
}

# Closed words that are a noun after "the", "a" or a possessive, or a verb where one is due.
_TWO_SIDED = words_of(
    "can will might must mine well round back like past while inside outside home third"
)

_NEVER_VERBS = words_of(
    """people man men woman women child mother mothers sister brother daughter day days week year
    minutes evening evenings morning mornings being beings saying sayings others news lots bits
    wee stairs clothes feelings husband wife dinner breakfast supper weekend winter autumn
    hospital doctor doctors police kind sort moment god soul king queen cat lady uncle aunt gran
    mum dad data ethics media shoe shoes station office language machine computer street sea sun
    moon sky kid kids century army church war evidence experience"""
)
_NEVER_NOUNS = words_of(
    """say says go goes want wants make makes get gets got take takes come comes find finds give
    gives keep keeps tell know known think thinks let lets put puts ask see sees become sit
    write forget deserve send began begin seem happen bring grow learn listen speak remember was
    understand explain decide choose belong lose die meet hear buy sell eat teach believe agree
    carry spend pay save told felt found left fell met lost shut old real dark great poor
    possible dear innocent young sick deaf silly lovely pregnant mean wrong free warm wet angry
    sad big easy early true false bad nice strong weak happy proud honest able certain sure
    different ancient ready dry hot busy bare narrow shy alive new several alone like even still
    up off out now then here there where when how why over through down than more less about
    ever once her his own same open empty correct separate exact usual hard other this each any
    something anything everything nothing who what which me us it you they he she small little
    short full fine given many long"""
)
_NEVER_ADJECTIVES = words_of(
    """daughter mum choice council state stock head side front number record minute cross corner
    chance trial trick fool dress pilot panic shadow content master cream wood mass bay camp
    party game spouse evening morning afternoon matter hand spring animal incident formula
    majority motive detective capital summary standard cloth elder complainant attendant
    chocolate resident house friend people use trust answer care power child night time plan
    work object stranger building drawing dating well union back machine lead fake"""
)
_MOSTLY_ADJECTIVES = words_of(
    """good whole private local particular human public general final social current practical
    independent senior junior clinical sweet positive normal opposite simple special personal
    medical quiet dead best better full close fair clean clear low fast firm straight cold high
    past flat due ill sore quick thick daily sharp weekly wide wild heavy married calm brave
    single second average equal total blank fat drunk damp pale negative blind tender worthy
    noble moral natural fresh common main legal rich loose tired worse thin rough direct slow
    level sober gentle smooth idle near modern major minor central federal physical mental
    sexual political national international professional digital electric basic specific
    original criminal ordinary necessary essential sensitive savage hollow steady keen alert
    upset lean humble proper worth dying mere sheer bitter bright vast foolish wise polite rude
    extra complete absolute constant relevant intimate active passive native spare black white
    green brown blue red grey pink yellow present patient adult right last secret official
    individual elderly living missing moving used long wrong light cool dirty fit perfect sacred
    silent round kind upper lower inner outer held broken lit long safe"""
)
_MOSTLY_VERBS = words_of(
    """need needs help helps look looks talk talks call calls hope hopes wish wishes feel feels
    show shows matter matters mean means stay stays wait walk try tries leave start stop turn
    turns run runs move live lives lie stand hold holds read cut hit set watch play worry wonder
    suppose guess bet thank thanks cost costs hurt hurts seek breathe sleep drink laugh smile
    check rely hate love fear trust share cover pause accept refuse break breaks burn end ends
    work works own visit claim reach treat judge respect rise drop pull push throw catch kill
    drive ride build count"""
)
# Adjectives in form of a participle: after be they tell of a state, not of an event.
_STATES = words_of(
    """tired exhausted worried married interested interesting ashamed pleased afraid scared
    frightened bored boring excited exciting disappointed satisfied convinced surprised confused
    concerned annoyed embarrassed frightening retired supposed used dedicated determined
    committed involved related experienced educated qualified gifted talented crowded
    complicated detailed limited relaxed settled depressed devastated delighted overwhelmed
    overwhelming dying missing willing loving caring demanding tempting confusing disturbing
    alarming surprising disappointing annoying embarrassing tiring exhausting rewarding
    challenging upsetting unprepared unmarried gone lost closed drunk alarmed aged armed devoted
    mistaken isolated entitled allied amazed astonished upset grounded scattered divided
    prepared accustomed terrified horrified shocked stunned hurt crooked naked sacred wicked
    learned blessed beloved aware unwanted unfinished unnamed united stressed stuck"""
)

_BOUND = 65_536  # words remembered


def _closed() -> dict[str, Word]:
    words: dict[str, Word] = {}
    for kind, (base, *groups) in _AUXILIARIES.items():
        for tense, group in zip(("base", "past", "gerund"), groups, strict=True):
            for form in group.split():
                words[form] = Word(form, kind, tense=tense, base=base)
    for kind, group in _CLASSES.items():
        for form in group.split():
            words.setdefault(form, Word(form, kind))
    return words


_CLOSED = _closed()


@lru_cache(maxsize=_BOUND)
def look_up(token: str) -> Word:
    """What a token of letters can be, by itself."""
    form = token.lower().replace("’", "'")
    capital = token[0].isupper() and form != "i"
    word = _CLOSED.get(form)
    if word is None:
        word = _contraction(form) or _open(form, capital)
    elif form in _TWO_SIDED:
        both = _open(form, False)
        word = replace(both, kind=word.kind, tense=word.tense)
    return replace(word, capital=capital)


def _contraction(form: str) -> Word | None:
    """A pronoun, or another closed word, with its verb: "they've", "that's", "who'd"."""
    form = _CARELESS.get(form, form)
    stem, apostrophe, ending = form.rpartition("'")
    then = _ENDINGS.get(apostrophe + ending, "")
    if not then or not stem:
        return None
    if form == "let's":
        return Word(form, MODAL)  # what follows is an infinitive
    closed = _CLOSED.get(stem)
    if closed is not None and (closed.kind != NUMBER or ending != "s"):
        return Word(form, closed.kind, then=then)
    return None


def _open(form: str, capital: bool) -> Word:
    """A word of the open classes: noun, verb, adjective, adverb, or several of them."""
    stem = form.removesuffix("'s").removesuffix("'")
    readings = lemminflect.getAllLemmas(stem)
    if not readings:
        return _by_ending(form, stem, capital)
    owns = "NOUN" in readings and stem not in _NEVER_NOUNS
    if form.endswith("s'") and not owns:  # the end of a quotation
        return look_up(stem)
    verbs = () if stem in _NEVER_VERBS or stem != form else readings.get("VERB", ())
    past, base, third, ing = _verb_readings(stem, verbs)
    nouns = () if stem in _NEVER_NOUNS else readings.get("NOUN", ())
    noun, plural = _noun_reading(stem, nouns)
    adjective = "ADJ" in readings and stem not in _NEVER_ADJECTIVES
    return Word(
        stem,
        then="'" if stem != form else "",
        base=base,
        third=third,
        past=past,
        ing=ing,
        noun=noun,
        plural=plural,
        adjective=adjective or stem in _MOSTLY_ADJECTIVES or stem in _STATES,
        adverb="ADV" in readings and not noun,
        lean=_lean(stem, bool(noun), bool(base or third or past or ing), bool(base), adjective),
    )


def _lean(form: str, noun: bool, verb: bool, base: bool, adjective: bool) -> str:
    if form in _STATES:
        return "S"
    if form in _MOSTLY_ADJECTIVES:
        return "J"
    if form in _MOSTLY_VERBS:
        return "V"
    if adjective and not noun and (not verb or (base and form in _NEVER_NOUNS)):
        return "J"
    return "N" if noun else "V"


def _verb_readings(form: str, lemmas: tuple[str, ...]) -> tuple[str, str, str, str]:
    """(past, base, third, ing): the base form for each tense that the form can have."""
    past = base = third = ing = ""
    for lemma in lemmas:
        tags = lemminflect.getAllInflections(lemma, "VERB")
        if form in tags.get("VBD", ()) or form in tags.get("VBN", ()):
            past = past or lemma
        if form in tags.get("VBZ", ()):
            third = third or lemma
        if form in tags.get("VBG", ()):
            ing = ing or lemma
        if form == lemma:
            base = lemma
    if past and base and past != base and lemmas[0] == base:
        past = ""  # "feed", for all that it is also the past of "fee"
    elif past and base and past != base:
        base = ""  # "saw", "found", "felt": the past of a common verb is the likelier
    return past, base, third, ing


def _noun_reading(form: str, lemmas: tuple[str, ...]) -> tuple[str, bool]:
    """The base form and whether it is a plural. Some plurals look like the singular."""
    if not lemmas:
        return "", False
    if form in _UNCHANGED:
        return form, form in _ALWAYS_PLURAL
    for lemma in lemmas:
        if lemma != form and form in lemminflect.getAllInflections(lemma, "NOUN").get("NNS", ()):
            return lemma, True
    return form, form in _ALWAYS_PLURAL


_UNCHANGED = words_of("people police folk data news means media series species ethics politics")
_ALWAYS_PLURAL = words_of(
    "people police folk clothes scissors trousers glasses goods thanks belongings remains savings "
    "surroundings earnings leftovers outskirts premises stairs odds wages"
)


def _by_ending(form: str, stem: str, capital: bool) -> Word:
    """A word that the lexicon doesn't have."""
    then = "'" if stem != form else ""
    if capital:
        return Word(stem, noun=stem, then=then, name=True)
    if "-" in stem:
        last = look_up(stem.rpartition("-")[2] or "-")
        if last.kind == NUMBER:
            return Word(stem, NUMBER)
        if last.kind or last.past or last.ing or (last.adjective and last.lean == "J"):
            return Word(stem, adjective=True, lean="J")
        if last.noun and (last.lean == "N" or not last.adjective):
            return Word(stem, noun=stem, plural=last.plural, then=then)
        return Word(stem, adjective=True, lean="J")
    if stem.endswith("ly"):
        return Word(stem, adverb=True)
    if stem.endswith("ing") and len(stem) > 5:
        return Word(stem, ing=stem[:-3], lean="V")
    if stem.endswith("ed") and len(stem) > 4:
        return Word(stem, past=stem[:-2], lean="V")
    if stem.endswith(("ous", "ful", "less", "able", "ible", "ish", "ive")):
        return Word(stem, adjective=True, lean="J")
    plural = stem.endswith("s") and not stem.endswith(("ss", "us", "is")) and len(stem) > 3
    return Word(stem, noun=stem[:-1] if plural else stem, plural=plural, then=then)
