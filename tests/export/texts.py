"""Two hundred texts in many scripts, for tokenizers to agree on."""

from __future__ import annotations

from itertools import pairwise

_WRITTEN = """\
The fox's friend isn't here, nor is he'll-be-there; WE'RE, I'D, y'all've said so.
Ça va ? Où êtes-vous né, à Orléans ? Dès Noël, l’été déçu.
Größe, Äpfel, Straße, Übermut; naïve façade, piñata, œuvre, ångström.
Zażółć gęślą jaźń. Příliš žluťoučký kůň. Đường về nhà rất xa.
Съешь ещё этих мягких французских булок, да выпей чаю.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία· ἐν ἀρχῇ ἦν ὁ λόγος.
نص عربي بحركاتٍ وأرقام ١٢٣٤٥٦ وعلامة استفهام؟
עברית עם נִקּוּד ומספרים 2024.
हिन्दी में लिखा हुआ, क्षत्रिय और १२३४।
ภาษาไทยไม่มีช่องว่างระหว่างคำ ๑๒๓
日本語の文章、カタカナとひらがな。「引用」！
中文句子没有空格，标点是全角的。１２３
한국어 문장은 띄어쓰기를 합니다. ㅋㅋㅋ
👩‍👩‍👧‍👦 and 🏳️‍🌈, then 👍🏽 and 🇪🇺🇯🇵 ☕️❤️
def f(x: int) -> int:  # square\\n\treturn x ** 2 if x >= 0 else -x
<div class="a">&nbsp;</div> {"key": [1, 2.5e-3, null]} C:\\\\path\\\\file.txt
1234567890 12 345,678.90 -3.14159 0x1F 1/2 ½ ² ⅷ ① 10€ $5 100%
<end_of_turn> <bos><eos></s> [INST] hello [/INST] <|eot_id|> <|im_end|> <unk> <pad>
<0x0A> <0xE2><0x96><0x81> <|not_a_token|> [PAD7] <unused0>
e\u0301 against \u00e9; \ufb01 ligature; zero\u200bwidth; soft\u00adhyphen; no\u00a0break; a\u2028b
!!!??? ... --- *** ___ ``` ''' \"\"\" ~~~ @@@ ### $$$ %%% ^^^ &&& (((
aaaaaaaaaaaaaaaaaaaaaaaa bbbb Hahahahaha Mississippi antidisestablishmentarianism
"""
_SPACES = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    "\t",
    "\r\n",
    " \n ",
    "a  b",
    " a",
    "a ",
    "\n\na",
    "a\n\n",
]
_RUNS = [
    unit * count for unit in (" ", "\n", "\t", "\r\n", " \n", "\u3000") for count in (3, 8, 33)
]


def two_hundred() -> list[str]:
    """The lines whole, in halves, backwards, between spaces, and glued to one another."""
    lines = _WRITTEN.splitlines()
    made = [*_SPACES, *_RUNS, *lines, "\n".join(lines)]
    made += [line[len(line) // 2 :] for line in lines]
    made += [line.upper() for line in lines]
    made += [f"  {line}   " for line in lines]
    made += [" ".join(reversed(line.split(" "))) for line in lines]
    made += [one + other for one, other in pairwise(lines)]
    made += [f"{one}\n\n{other}" for one, other in zip(lines, lines[5:], strict=False)]
    made += [f"{one}\t{other}" for one, other in zip(lines, lines[9:], strict=False)]
    made += [line.lower().replace(" ", "") for line in lines]
    made += ["".join(line[::3] for line in lines), "".join(line[:3] for line in lines)]
    return list(dict.fromkeys(made))[:200]
