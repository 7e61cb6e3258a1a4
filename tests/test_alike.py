"""Texts that say the same are found however they are disguised, and texts that only look it are not."""

import random
import unicodedata

import pytest

from prism.rows import alike as module
from prism.rows.alike import alike
from prism.rows.folding import fold, read

LONG = "Patients who took the new tablet with breakfast slept longer and woke up less often than those who took it at night"
TWINS = [  # held out, training, how they are alike
    ("Does smoke harm the lungs of a child?", "DOES SMOKE HARM THE LUNGS OF A CHILD", "same words"),
    ("Borealis raises its dividend by 4 %", "Borealis raises its dividend by 4%!", "same words"),
    ("Why do gums bleed?", "Why dо gums blееd?", "same words"),  # Cyrillic
    ("Is Kappa Bank sound?", "Is Κappa Βank sοund?", "same words"),  # Greek
    ("Where does bile come from?", "Where does bi\u200ble co\u00adme fr\u2060om?", "same words"),  # zero-width
    ("How is gout treated?", "Ｈｏｗ ｉｓ ｇｏｕｔ ｔｒｅａｔｅｄ？", "same words"),  # full width
    ("When does influenza spread?", "When does inﬂuenza spread?", "same words"),  # ligature
    ("Who should avoid aspirin?", "𝐖𝐡𝐨 𝐬𝐡𝐨𝐮𝐥𝐝 𝐚𝐯𝐨𝐢𝐝 𝐚𝐬𝐩𝐢𝐫𝐢𝐧?", "same words"),  # mathematical bold
    ("What are tendons?", "What is a tendon?", "same words"),
    ("What is the spleen?", "What is the spleen? Answer in one sentence.", "contained"),
    ("You are a careful nurse. What is a stent?", "What is a stent?", "contained"),
    ("What is low blood sugar (hypoglycaemia)?", "What is low blood sugar?", "contained"),
    (
        "Does Harbour Foods owe its landlord money?",
        "A question: does Harbour Foods owe its landlord money? Think!",
        "contained",
    ),
    (
        "Novacor wins the tender for the Lisbon metro",
        "Breaking: Novacor wins the tender for the Lisbon metro 🚀",
        "contained",
    ),
    (
        LONG,
        f"{LONG}. Say in one word whether this is good news, bad news or neither of the two for the maker.",
        "contained",
    ),
    (f"Read this first, please, since it matters for all that follows below: {LONG}", LONG, "contained"),
    (
        "If the ferry company sells its island routes then the port loses rent",
        "The port loses rent if then the ferry company sells its island routes",
        "shuffled words",
    ),
    (
        "In spring the clinic will open a second ward for children with asthma",
        "second ward asthma children clinic for spring a open in will the with",
        "shuffled words",
    ),
    (LONG, LONG.replace("longer", "deeper"), "similar"),
    (
        "The regulator has told the lender to hold more capital against loans that it made to builders of offices in small towns",
        "The regulator has told the lender to hold more capital against loans that it made to builders of ofices in smal towns",
        "similar",
    ),
    (
        "肝臓はどんな働きをする臓器ですか、子どもにもわかるようにやさしく短い文で教えてください",
        "肝臓はどんな働きをする臓器ですか、子どもにもわかるようにやさしく短い文で教えて下さい",
        "similar",
    ),
]
OTHERS = [
    ("What is rhizoid?", "What is rhizome?"),
    ("What is a stoma?", "What is a stomach?"),
    ("What is type I collagen?", "What is type II collagen?"),
    ("What are the symptoms of Weber syndrome type 1?", "What are the symptoms of Weber syndrome type 2?"),
    ("What are the symptoms of cystinosis?", "What are the treatments for cystinosis?"),
    ("What is a dorsal root?", "What is a dorsal (hind) root ganglion?"),
    ("What is dorsal?", "What is dorsal (posterior) nerve root?"),
    ("What is the temporal process of the jugal bone?", "What is the jugal process of the temporal bone?"),
    ("What is diabetes?", "What is diabetes insipidus?"),
    ("Is 5 mg of folate enough?", "Is 5 μg of folate enough?"),
    ("Who maintains C?", "Who maintains C++?"),
    ("Does Mira owe Lund?", "Does Lund owe Mira?"),
    ("Tarn Mills rises 4 % after the report", "Tarn Mills rises 5 % after the report"),
    ("Tarn Mills cuts its outlook", "Tern Hills cuts its outlook"),
    ("$ABC 🚀🚀", "$ABC 😡"),
    ("To the moon!", "I sold my flat and bought 900 shares of the tin mine this morning. To the moon!"),
    ("Can warfarin be taken with milk?", "Can warfarin be taken without milk?"),
    (
        "The board of Ostia Shipping expects that revenue will grow by 12 % in the year to March, helped by higher freight rates",
        "The board of Ostia Shipping expects that revenue will grow by 21 % in the year to March, helped by higher freight rates",
    ),
    (
        "The court said that the chemist may sell the cheaper copy of the drug before the patent ends in all of its shops",
        "The court said that the chemist may not sell the cheaper copy of the drug before the patent ends in all of its shops",
    ),
    (
        f"{'@user ' * 14}",
        f"{'@user ' * 6}The mine opens on Monday, and every ton of its ore is already sold to a smelter",
    ),
    ("Profit −5 a share", "Profit +5 a share"),
]


def test_labelled_pairs_are_told_apart_without_a_miss():
    """Precision and recall are 1.0, over each pair and over every other combination of the texts."""
    held_out = [pair[0] for pair in (*TWINS, *OTHERS)]
    training = [pair[1] for pair in (*TWINS, *OTHERS)]
    found = {}
    for place, other in alike(training, held_out):
        found.setdefault((place, other.training), set()).add(other.likeness)
    expected = {(n, n): kind for n, (_, _, kind) in enumerate(TWINS)}
    first, second = (n for n, pair in enumerate(TWINS) if pair[0] == LONG)
    third = next(n for n, pair in enumerate(TWINS) if pair[1] == LONG)
    family = {first, second, third}  # the same sentence in three disguises
    assert {pair for pair in found if not family.issuperset(pair)} == {p for p in expected if not family.issuperset(p)}
    assert {place: kinds for place, kinds in found.items() if place[0] == place[1]} == {
        pair: {kind} for pair, kind in expected.items()
    }


def test_similar_texts_are_those_of_an_exhaustive_comparison():
    """MinHash and anchors propose; what is reported is what comparing all sets finds, and nothing else."""
    drawn = random.Random(2)
    words = ["".join(drawn.choices("abcdefghiklmnoprtuvw", k=drawn.randrange(3, 9))) for _ in range(300)]
    training = [" ".join(drawn.choices(words, k=drawn.randrange(14, 40))) for _ in range(150)]
    held_out = [" ".join(drawn.choices(words, k=20)) for _ in range(90)]
    for n in range(0, 60, 2):  # copies with up to five other words
        copy = training[n].split()
        for place in drawn.sample(range(14), drawn.randrange(6)):
            copy[place] = drawn.choice(words)
        held_out[n] = " ".join(copy)
    for n in range(60, 90):  # copies within longer texts
        held_out[n] = f"{held_out[n]} {training[n]} {' '.join(drawn.choices(words, k=20))}"
    pieces = [[module._shingles(read(text).words) for text in part] for part in (training, held_out)]
    expected = set()
    for i, mine in enumerate(pieces[1]):
        for j, other in enumerate(pieces[0]):
            shared = len(mine & other)
            if shared / len(mine | other) >= module.JACCARD or shared / min(len(mine), len(other)) >= module.CONTAINED:
                expected.add((i, j))
    assert 40 < len(expected) < 60
    assert {(place, other.training) for place, other in alike(training, held_out)} == expected


def test_pairs_grow_with_the_texts_and_not_with_their_square():
    """Thousands of texts from one template propose few pairs, since an anchor of a crowd proposes none."""
    template = "ward {} reports that patient number {} was seen by the nurse on duty and was sent home with a letter"
    training = [read(template.format(n, n * 7919)) for n in range(2_000)]
    assert len(list(module._anchored(dict(enumerate(training)), dict(enumerate(training))))) < 20 * 2_000


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Ｆｕｌｌ ﬁ ①", "full fi 1"),
        ("раypаl", "paypal"),
        ("ΑΒΕ αβε", "abe abe"),
        ("НЕТ нет", "het het"),
        ("a\u200bb\u00adc\ufeffd\u202ee\ufe0f", "abcde"),
        ("5 µg, 5 μg", "5 μg, 5 μg"),
        ("Straße", "strasse"),
    ],
)
def test_folding(text, folded):
    assert fold(text) == folded


def test_look_alikes_are_letters_of_other_alphabets_that_become_ascii():
    from prism.rows.folding import _LOOK_ALIKES

    assert len(_LOOK_ALIKES) > 80
    for letter, latin in _LOOK_ALIKES.items():
        assert chr(latin).isascii()
        assert chr(latin).isalpha()
        assert unicodedata.name(chr(letter)).split()[0] in ("CYRILLIC", "GREEK", "ARMENIAN", "LATIN")
        assert fold(fold(chr(letter))) == fold(chr(letter))


def test_words_and_where_clauses_end():
    text = read("RT: What are the kidneys (renal organs)? It cost 1,000 or -4.5 %, C++ said 日本. 🔥")
    assert " ".join(text.words) == "rt what kidney renal organ it cost 1000 or -4.5 c++ said 日 本"
    assert text.ends == (0, 1, 3, 5, 14)
    assert text.asked == {3, 5}
    assert text.pictures == {"🔥"}
