"""TAT-QA's metric on hand-checked cases. Expected values were worked out from the published scorer's definition, and the
cases were run through that scorer besides, with the same result; the number of 400 digits is too much for it.

A case: predicted spans and scale, gold spans and scale, answer type, exact match, F1.
"""

import pytest

from prism.metrics import tatqa

CASES = [
    # numbers and their dress
    (["1,496.5"], "million", ["$1,496.5"], "million", "span", 1, 1),
    (["$1496.5"], "million", ["$1,496.5"], "million", "span", 1, 1),
    (["1496.50"], "million", ["$1,496.5"], "million", "span", 1, 1),
    (["1,496"], "million", ["$1,496.5"], "million", "span", 0, 0),
    (["€ 44.1"], "", ["44.1"], "", "span", 1, 1),
    (["£44.1"], "", ["¥44.1"], "", "span", 1, 1),  # currency counts for nothing
    (["007"], "", ["7"], "", "arithmetic", 1, 1),
    (["7.0"], "", ["7"], "", "count", 1, 1),
    # scales
    (["44.1"], "thousand", ["44.1"], "million", "span", 0, 0),
    (["44,100"], "thousand", ["44.1"], "million", "span", 1, 1),
    (["44100000"], "", ["44.1"], "million", "span", 1, 1),
    (["44.1 million"], "", ["44.1"], "million", "span", 1, 1),
    (["44.1 million"], "million", ["44.1"], "million", "span", 0, 0),  # a scale given twice multiplies
    (["1.5"], "billion", ["1,500"], "million", "arithmetic", 1, 1),
    (["1.5 billion"], "", ["1,500"], "million", "arithmetic", 1, 1),
    (["15 hundred"], "", ["1.5"], "thousand", "arithmetic", 1, 1),
    (["44.1"], "", ["44.1"], "million", "span", 0, 0),
    (["44.1"], "million", ["44.1"], "", "span", 0, 0),
    (["3 stores"], "", ["3"], "", "span", 0, 0),  # "3" is a word here, and the gold number is "3.0"
    # signs
    (["-12.6"], "million", ["-12.6"], "million", "arithmetic", 1, 1),
    (["12.6"], "million", ["-12.6"], "million", "arithmetic", 0, 0),
    (["(12.6)"], "million", ["-12.6"], "million", "arithmetic", 1, 1),
    (["+12.6"], "million", ["12.6"], "million", "arithmetic", 1, 1),
    (["(12)"], "", ["-12"], "", "span", 1, 1),
    (["(1,234)"], "", ["1,234"], "", "span", 1, 1),  # quirk: the comma hides the sign
    (["(1,234)"], "", ["-1,234"], "", "span", 0, 0),
    (["−12.6"], "", ["-12.6"], "", "arithmetic", 0, 0),  # a typographic minus is no sign
    # percents
    (["23.42"], "percent", ["23.42"], "percent", "arithmetic", 1, 1),
    (["23.42%"], "", ["23.42"], "percent", "arithmetic", 1, 1),
    (["23.42%"], "percent", ["23.42"], "percent", "arithmetic", 1, 1),  # the sign is enough, the scale is not added
    (["0.2342"], "", ["23.42"], "percent", "arithmetic", 1, 1),
    (["0.2342"], "percent", ["23.42"], "percent", "arithmetic", 0, 0),
    (["23.42"], "", ["23.42"], "percent", "arithmetic", 0, 0),
    (["23.42 percent"], "", ["23.42"], "percent", "arithmetic", 1, 1),
    (["-22.22"], "percent", ["-22.22"], "percent", "arithmetic", 1, 1),
    (["-0.2222"], "", ["-22.22"], "percent", "arithmetic", 1, 1),
    (["5.2%"], "", ["5.2%"], "percent", "span", 1, 1),
    (["(5.2%)"], "", ["5.2%"], "percent", "span", 1, 1),  # quirk: a percent in parentheses keeps its sign
    (["1.75%"], "", ["1.7%"], "percent", "span", 0, 0),
    # rounding
    (["44.123"], "million", ["44.12"], "million", "arithmetic", 1, 1),
    (["44.126"], "million", ["44.12"], "million", "arithmetic", 0, 0),
    (["44.1249"], "", ["44.12"], "", "arithmetic", 1, 1),
    (["10.68"], "percent", ["10.7"], "percent", "arithmetic", 0, 0),  # no tolerance beyond two decimals
    (["0.12"], "", ["12"], "percent", "arithmetic", 1, 1),
    (["0.12004"], "", ["12"], "percent", "arithmetic", 1, 1),
    (["2.345"], "", ["2.35"], "", "arithmetic", 1, 1),  # as a float 2.345 is a little more than it says
    (["2.675"], "", ["2.68"], "", "arithmetic", 0, 0),  # and 2.675 a little less
    # words: case, punctuation, articles, partial credit
    (["Fixed Price"], "", ["fixed price"], "", "span", 1, 1),
    (["the fixed-price type."], "", ["fixed-price type"], "", "span", 1, 1),
    (["fixed price type"], "", ["fixed-price type"], "", "span", 0, 0.4),  # the hyphen joins what it stands between
    (["higher prices"], "", ["higher prices and volumes"], "", "span", 0, 0.67),
    (["prices higher"], "", ["higher prices"], "", "span", 0, 1),
    (["higher prices"], "", ["lower costs"], "", "span", 0, 0),
    (["an increase of $2.4 million"], "", ["increase of 2.4 million"], "", "span", 1, 1),
    (["increase"], "million", ["increase"], "", "span", 0, 0.67),  # a scale is a word of what is no number
    (["higher prices higher prices"], "", ["higher prices"], "", "span", 0, 1),  # words are counted once
    # lists
    (["2019", "2018"], "", ["2018", "2019"], "", "multi-span", 1, 1),
    (["2019"], "", ["2018", "2019"], "", "multi-span", 0, 0.67),
    (["2019, 2018"], "", ["2018", "2019"], "", "multi-span", 0, 0),  # one span of two years is no number
    (["Retail", "Online"], "", ["Online", "Retail"], "", "multi-span", 1, 1),
    (["retail", "Online"], "", ["Online", "Retail"], "", "multi-span", 1, 1),
    (
        ["online", "Retail"],
        "",
        ["Online", "Retail"],
        "",
        "multi-span",
        0,
        1,
    ),  # quirk: capitals sort before small letters
    (["Retail", "Online", "Asia"], "", ["Online", "Retail"], "", "multi-span", 0, 0.8),
    (["1.5", "2.5"], "million", ["2.5", "1.5"], "million", "multi-span", 1, 1),
    (["1.5", "2.5"], "", ["2.5", "1.5"], "million", "multi-span", 0, 0),
    # dates
    (["September 30, 2019"], "", ["September 30, 2019"], "", "span", 1, 1),
    (["september 30 2019"], "", ["September 30, 2019"], "", "span", 1, 1),
    (["30 September 2019"], "", ["September 30, 2019"], "", "span", 0, 1),
    (["September 2019"], "", ["September 30, 2019"], "", "span", 0, 0.8),
    (["2019"], "", ["2019"], "", "span", 1, 1),
    (["FY2019"], "", ["2019"], "", "span", 0, 0),
    # counts, no partial credit, nothing
    (["3"], "", ["3"], "", "count", 1, 1),
    (["three"], "", ["3"], "", "count", 0, 0),
    (["3 of 4"], "", ["3 of 5"], "", "count", 0, 0),
    (["3 of 4"], "", ["3 of 5"], "", "span", 0, 0.67),
    ([], "", ["3"], "", "count", 0, 0),
    ([""], "", ["3"], "", "span", 0, 0),
    # what only a machine would say
    ([".5"], "", [".7"], "", "span", 1, 1),  # quirk: a number that begins with its point has no value
    (["nan"], "", ["12"], "", "span", 0, 0),
    (["1e5"], "", ["1"], "", "span", 1, 1),  # quirk: the exponent is not read
    (["9" * 400], "", ["12"], "", "arithmetic", 0, 0),
    (["1.234,56"], "", ["1,234.56"], "", "span", 0, 0),  # another locale is another number
]


def test_there_are_sixty_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize(("said", "scale", "gold", "gold_scale", "kind", "exact", "f1"), CASES)
def test_hand_checked(said, scale, gold, gold_scale, kind, exact, f1):
    assert tatqa.score(said, scale, gold, gold_scale, kind) == (exact, f1)
