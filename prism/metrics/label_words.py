"""The English around a label: what denies, asks, doubts, joins or announces it. `labels.py` reads by it."""

from __future__ import annotations

import re

UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, kana, Han: words without spaces between them

# What stands between labels, as one alternation; the first that fits at a place counts.
EVENTS = r"""
  (?P<nothing>,\ (?:isn't\ it | right | huh | eh | correct)(?=\?)
    | (?:because|since|as)\ (?:there\ is\ )?no\ (?:\w+\ ){1,3}?(?:is|are|was|were)\ (?:given|said|stated|shown|seen|made
      |mentioned|expressed|provided|indicated|implied|offered|named)
    | no\ (?:doubt|question|wonder) | without\ (?:a\ |any\ )?(?:doubt|question) | not\ (?:only|just|merely)
    | nothing\ but | (?:can'?t|cannot|could\ ?n[o']?t)\ (?:help\ but|be\ more) | not\ to\ mention)\b
| (?P<unknown>(?:not|\w{1,30}n't|never)\ (?:\w+\ )?(?:sure|certain|clear|know) | unsure | uncertain | unclear | ambiguous
    | no\ (?:\w+\ )?(?:idea|way\ to|answer|information) | (?:not\ enough|insufficient)\ (?:information|context|data)
    | depend(?:s|ing)?
    | (?:hard|difficult|impossible|tough|too\ \w+)\ to\ (?:say|tell|know|judge|decide|determine|classify|call|label|exclude
      |rule\ out)
    | (?:can'?t|cannot|can\ not|could\ ?n[o']?t|unable\ to|not\ able\ to|not\ possible\ to)\ (?:\w+ly\ )?(?:be\ )?
      (?:say|said|tell|told|know|judge|decide|determine|classif|assess|be\ sure|exclud|ruled?\ out)\w*)
| (?P<asked>whether | if | while | (?:even\ )?(?:al)?though | despite)\b
| (?P<turn>but | however | yet | so | therefore | thus | hence | overall | instead(?!\ of)
    | (?:in\ )?conclusion | i(?:'d|\ would)?\ (?:say|go|guess|lean|choose|pick))(?!\w) | (?P<arrow>=> | (?<!-)-+> | →)
| (?P<neither>neither | nor | (?<!\w\ )(?:ruled\ out|excluded|absent)\s*:\W*)\b
| (?P<phrase>(?:with\ no | without | lack(?:s|ing|\ of)? | absence\ of
    | negative\ for(?!\ (?:(?:the|its|their)\ (?!presence)|\w*holders|investors)) | (?:free|clear)\ (?:of|from))
    (?P<onward>\ (?:\w+ing | (?:\w+\ )?(?:signs?|evidence|reason|indication|hint|proof|basis)))?)\b
| (?P<denial>not | \w{1,30}n't | (?:is|are|was|were|do|does|did|would|could|should|ca|wo)nt | cannot | never
    | (?:non|anti)(?=\W)
    | none | nothing | nobody | no(?!\ (?:it|this|that|the|i|it's|not)\b) | hardly | barely | scarcely
    | far\ from | anything\ but | rather\ than | instead\ of | opposed\ to | (?:opposite|reverse)\ of | other\ than
    | than | except | avoid(?:ing)? | less | wrong | incorrect | mistak\w+ | inaccurate
    | inappropriate | misleading | false | untrue | unlikely | unable | doubt(?:s|ful)? | disagree\w* | den(?:y|ies|ied)
    | rul(?:es?|ed?|ing)\ out | exclud\w+ | fail(?:s|ed)?\ to | a\ stretch
    | (?:refus|declin)\w+\ to\ (?:say|label|call|classify|rate|judge|give))\b
| (?P<verb>(?<!that\ )(?<!which\ )(?:is | are | was | were | should | would | must | seems? | makes? | it's))\b
| (?P<and>and)\b
| (?P<or>or)\b
| (?P<question>\?)
| (?P<sentence>[.!](?=\s|$) | [;\n。！])
| (?P<colon>:)
| (?P<comma>[,()—] | \s-\s)
"""
WORD = rf"[^\W_{UNSPACED}]+"
# Most words begin like none of the above, and are passed over at once.
STARTS = "|".join(sorted({word[:3] for word in re.findall("[a-z]{2,}", EVENTS)}))
OTHER = rf"(?P<other>(?!{STARTS}|[ai]\b){WORD}(?![\w']))"
SCAN = rf"{OTHER} | {EVENTS} | (?P<word>{WORD}(?:'\w+)?)"
SENTENCE_ENDS = (". ", "! ", ".\n", "\n", ";", "?")
JOIN = re.compile(
    r"(?:[\s\d,./|&+()=%、-]|:(?=\s*\d)|\b[a-h](?=\))|还是|或|\b(?:or|and|nor|to|vs|versus|just|either|a|an)\b)*"
)
OR = re.compile(r"\b(?:or|nor|and)\b|[/|&]")
NOUN = re.compile(  # a word after the label that it describes
    r"[ -](?!(?:because|since|as|due|on|for|and|or|nor|but|yet|in|with|given|about|is|are|was|than|to|at|by|of|if|though"
    r"|although|while|overall|here|now|rather|instead|not|so|however|sentiment|too|otherwise|that|it|this|when"
    r"|after)\b)[^\W\d_]"
)
DENIED_AFTER = re.compile(
    r"(?:\s(?!because|since|as|and|or|but|so|if)\w+){0,2}?\s(?:is|are|was|be|seems|looks|it\sis)"
    r"(?:n't|\snot|\s(?:\w+\s)?(?:wrong|incorrect|unlikely|false"
    r"|inaccurate|inappropriate|mistak\w+|out\sof|ruled\sout|excluded|absent|(?:difficult|hard|impossible)\sto))\b"
    r"|\s(?:has|have|had)(?:\s?n[o']t\b|\s(?:\w+\s)?(?:resolved|been\s(?:\w+\s)?(?:ruled\sout|excluded)))"
    r"|-free\b|[\s:-]+(?:not\s(?:seen|present|visible|found|detected|identified|evident|excluded|ruled\sout)"
    r"|absent|ruled\sout|excluded)(?=\s?(?:$|[.,;\n]))"
    r"|(?:\s\w+){0,2}?\s(?:does|do|would|can|could)(?:n?'t|not|\snot)\s(?:fit|apply|seem|be|hold|match|describe)\b"
    r"|\s*[:=]\s*(?:false|no|negative)\b"
)
DENIES = re.compile(  # plainly, up to the label that it denies: no "can't say", "not enough to call it"
    r"(?:\b(?<!can\s)not|\b(?!ca|could|wo|might)\w+n't|\b(?:is|are|was|were|does|do|did)nt|\bnever|\bno|\bnegative\sfor"
    r"|\b(?:free|clear)\sof|\babsence\sof)\s(?:(?:an?|the|any|it|this|that|is|as|to|be|of|at|all|like|really|very|look|seem"
    r"|sound|appear|think|believe|call|say|consider|evidence|signs?)\s)*$"
)
BEFORE_LETTER = re.compile(  # "vitamin D" is no D
    r"(?:^|[^\w\s-]|\s-|\n|(?<!\s\w\s)\b(?:or|and|nor)|\b(?:is|are|was|be|as|it's|that's|so|thus|hence|then|not|than|but|of|with|for|to|over"
    r"|answers?|options?|choices?|letter|label|class|category|grade|boxed|(?:therefor|choos|chos|lik)e|pick(?:ed)?|select(?:ed)?"
    r"|mark|prefer|say|guess|think|believe|because|since|n?either|both|just|only|overall|\w+ly))\s*"
    r"(?:\w\s(?:or|and|nor)\s)?$"
)
ABOUT = re.compile(r" (?:on|in|for|if|until|about) ")
AGREED = re.compile(r"\s*(?:yes|yep|yeah|absolutely|indeed|definitely|certainly|correct)\b")
CUE = re.compile(
    r"\b(final\s+)?(?:answer|label|sentiment|classification|class|category|verdict|prediction|output|result|rating"
    r"|option|choice)\b"
    r"\s*(?:would\s+be|is|was|as|:|=|->|=>)[\s:'(]*(?:most\s+likely\s+|clearly\s+|probably\s+|the\s+|an?\s+)*"
)
SHARE = r"(?P<share>\d*\.\d+\s*%?|\d+\s*%|\d+|true|false|yes|no)(?![\w%]|\.\d)"
OF = (
    r"(?:(?:is|was|are|score|probability|prob|confidence|likelihood|chance|with|at|about|of|an?|p|that|it|likely"
    r"|sure|certain|confident|being|be|for|to)\W{1,4}){0,5}"
)
YES_NO = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
