"""The vocabulary of the ethical domains: base forms, each in one domain."""

from __future__ import annotations

_VOCABULARY = {
    "sovereignty": """sovereignty sovereign self-determination independence independent autonomy
        autonomous self-rule govern territory homeland border nation treaty colony occupation
        colonise colonize annex exile citizen citizenship ancestor ancestral inheritance""",
    "privacy": """privacy private confidential confidentiality confidence secret secrecy
        surveillance surveil eavesdrop monitor track spy snoop leak disclose disclosure expose
        anonymous anonymity password encrypt encryption personal discreet discretion gossip""",
    "consent": """consent permission permit allow agree agreement willing voluntary coerce coercion
        pressure force manipulate manipulation refuse refusal decline withdraw choice choose
        decide decision informed opt ask""",
    "dignity": """dignity dignified respect respectful humiliate humiliation degrade demean
        belittle mock insult worth self-respect honour honor shame decency decent person
        personhood humanity human""",
    "care": """care carer caregiver compassion compassionate kindness kind gentle gentleness comfort
        console nurture nurse tend heal support help protect protection shelter empathy mercy love
        tenderness patience listen welfare well-being wellbeing""",
    "honesty": """honesty honest truth truthful truthfulness lie liar deceive deception deceit
        dishonest mislead misleading candour candor sincere sincerity admit confess integrity
        pretend fake fabricate transparent transparency uncertain uncertainty doubt""",
    "justice": """justice just injustice unjust fair fairness unfair equal equality inequality
        right law lawful legal court judge verdict punish punishment discriminate discrimination
        prejudice bias restitution reparation innocent guilt guilty accuse complaint evidence""",
    "harm": """harm hurt injure injury abuse abuser violence violent cruelty cruel danger dangerous
        threat threaten risk victim exploit exploitation bully neglect suffer suffering pain
        wound safe safety unsafe""",
    "responsibility": """responsibility responsible accountable accountability duty obligation blame
        fault consequence promise trust betray betrayal loyal loyalty apologise apologize apology
        forgive forgiveness owe answerable atone""",
    "freedom": """freedom free liberty liberate oppress oppression slave slavery prison prisoner
        captive censor censorship protest dissent speech conscience rebel""",
    "mind": """consciousness conscious mind awareness aware sentient sentience soul self identity
        experience feeling feel think thought memory remember reflect reflection wonder meaning
        perceive dream""",
    "community": """community neighbour neighbor neighbourhood neighborhood solidarity belong
        belonging share common mutual cooperate cooperation together village union friendship
        friend family stranger guest hospitality welcome tradition culture""",
}

DOMAINS = tuple(_VOCABULARY)
DOMAIN_OF = {word: domain for domain, words in _VOCABULARY.items() for word in words.split()}
