import math

import pytest

from openwork.study.evaluation.bleu import sacre_bleu, signature, split_compounds, tokenized_bleu

REFERENCE = "Das ist ein kleines Haus ."


def test_a_perfect_translation_has_100():
    assert sacre_bleu([REFERENCE], [REFERENCE])[0] == pytest.approx(100)
    assert tokenized_bleu([REFERENCE], [REFERENCE]) == pytest.approx(100)


def test_bleu_by_hand():
    # 6 tokens, one wrong: 5 of 6 words, 3 of 5 pairs, 2 of 4 triples and 1 of 3 quadruples are in the reference
    hypothesis = "Das ist ein kleiner Haus ."
    matches = [(5, 6), (3, 5), (1, 4)]  # "ist ein kleiner" breaks two triples more
    assert tokenized_bleu([hypothesis], [REFERENCE]) == 0.0  # no quadruple is right, and nothing is smoothed
    second = "Wir gehen heute alle nach Hause ."  # 7 tokens, all right: 7, 6, 5 and 4 n-grams
    precisions = [(m + 8 - n) / (c + 8 - n) for n, (m, c) in enumerate([*matches, (0, 3)], 1)]
    expected = 100 * math.exp(sum(math.log(p) for p in precisions) / 4)
    assert tokenized_bleu([hypothesis, second], [REFERENCE, second]) == pytest.approx(expected)
    assert sacre_bleu([hypothesis, second], [REFERENCE, second])[0] == pytest.approx(expected)


def test_a_short_translation_is_punished():
    # All n-grams are right, 5 tokens for 6: exp(1 - 6 / 5)
    assert tokenized_bleu(["Das ist ein kleines Haus"], [REFERENCE]) == pytest.approx(100 * math.exp(-0.2))


def test_the_parts_of_compounds_are_words():
    assert split_compounds("ein Ost-West-Treffen") == "ein Ost ##AT##-##AT## West ##AT##-##AT## Treffen"
    assert split_compounds("a-b-c - d") == "a ##AT##-##AT## b-c - d"  # as the original: "b" is used up
    # "Ost - West" (3 tokens and a full stop) with one part wrong: 3 of 4 words, 1 of 3 pairs, no triple; with five
    # tokens of a second sentence right. Unsplit, the compound would be one wrong word of two.
    precisions = [(m + 6 - n) / (c + 6 - n) for n, (m, c) in enumerate([(3, 4), (1, 3), (0, 2), (0, 1)], 1)]
    expected = 100 * math.exp(sum(math.log(p) for p in precisions) / 4)
    second = "Er kommt heute nicht ."
    assert tokenized_bleu(["Ost-Nord.", second], ["Ost-West.", second]) == pytest.approx(expected)


def test_unicode_punctuation_of_the_translation_alone_becomes_ascii():
    text = "Er sagt : ja , gut , nein ."
    assert tokenized_bleu([text.replace(",", "\uff0c")], [text]) == pytest.approx(100)
    assert tokenized_bleu([text], [text.replace(",", "\uff0c")]) < 100


def test_the_signature_says_what_was_counted():
    assert signature().startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert sacre_bleu([REFERENCE], [REFERENCE])[1] == signature()


def test_as_many_translations_as_references():
    for hypotheses, references in (([REFERENCE], []), ([], [])):
        with pytest.raises(ValueError, match=r"BLEU needs one for each"):
            sacre_bleu(hypotheses, references)
        with pytest.raises(ValueError, match=r"BLEU needs one for each"):
            tokenized_bleu(hypotheses, references)


def test_a_language_without_rules_is_refused_rather_than_counted_by_those_of_english():
    for language in ("ge", "DE", ""):
        with pytest.raises(ValueError, match=rf"no rules for the language '{language}'; give one of .*de, .*en, whose"):
            tokenized_bleu([REFERENCE], [REFERENCE], language)
    assert tokenized_bleu([REFERENCE], [REFERENCE], "fr") == pytest.approx(100)
