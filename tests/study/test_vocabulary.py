import re

import pytest

from openwork.study.data.number_words import number_words
from openwork.study.data.vocabulary import SentencePiece, Subwords, read_vocabulary, train_vocabulary

# Ids: 0 padding, 1 end, then in this order; words end in "_".
SUBWORDS = [
    "<pad>_",
    "<EOS>_",
    "Haus_",
    "Ha",
    "us_",
    "ein_",
    "e",
    "in_",
    ", _",
    ",_",
    "._",
    "._x",
    "_",
    "\\",
    "u",
    "4",
    "2",
    ";",
]
LETTERS = list("abcdfghijklmnopqrstvwxyzABCDEFGH0135 6789-.")


def subwords_file(tmp_path, entries=None):
    path = tmp_path / "vocab.ende.32768.subwords"
    path.write_text("".join(f"'{entry}'\n" for entry in entries or [*SUBWORDS, *LETTERS]), encoding="utf-8")
    return path


PAIRS = number_words("train")[:1000]


@pytest.fixture(scope="module")
def model():
    return train_vocabulary(lambda: PAIRS, 60, byte_fallback=False)


def test_subwords_are_the_longest_from_the_left(tmp_path):
    vocabulary = read_vocabulary(subwords_file(tmp_path))
    assert isinstance(vocabulary, Subwords)
    assert vocabulary.size == len(SUBWORDS) + len(LETTERS)
    # The space between two words is left out, that of ", " belongs to the run of other characters.
    assert vocabulary.encode(["Haus, ein Haus.", "Haein"]) == [[2, 8, 5, 2, 10], [3, 5]]
    assert vocabulary.decode([2, 8, 5, 2, 10, 1, 0]) == "Haus, ein Haus."
    assert vocabulary.decode([5, 2]) == "ein Haus"


@pytest.mark.parametrize("text", ["Haus_42", "a\\b", "naïve *42*", "  ein -- Haus ", "\U0001f600\u2028x", "_", "", " "])
def test_subwords_give_the_text_back(tmp_path, text):
    vocabulary = read_vocabulary(subwords_file(tmp_path))
    (ids,) = vocabulary.encode([text])
    assert vocabulary.decode(ids) == text


def test_sentencepiece_gives_the_text_back_and_is_the_same_for_any_number_of_threads(model):
    sentences = [text for pair in PAIRS for text in pair]
    vocabulary = SentencePiece(model)
    assert vocabulary.size == 60
    one, three = vocabulary.encode(sentences), vocabulary.encode(sentences, workers=3)
    assert one == three
    assert [vocabulary.decode(ids) for ids in one] == sentences
    assert vocabulary.decode([*one[0], 1, 0]) == sentences[0]
    assert not any(vocabulary.unknown in ids for ids in one)
    assert vocabulary.unknown in vocabulary.encode(["&"])[0]


def test_the_same_text_makes_the_same_vocabulary(model):
    again = train_vocabulary(lambda: PAIRS, 60, byte_fallback=False)
    assert (again, SentencePiece(again).fingerprint) == (model, SentencePiece(model).fingerprint)
    half = train_vocabulary(lambda: PAIRS, 60, byte_fallback=False, most=500)  # every second pair
    assert half == train_vocabulary(lambda: PAIRS[::2], 60, byte_fallback=False)
    assert SentencePiece(half).fingerprint != SentencePiece(model).fingerprint


def test_bytes_spell_what_has_no_piece():
    vocabulary = SentencePiece(train_vocabulary(lambda: PAIRS, 320))
    assert vocabulary.decode(vocabulary.encode(["ж & \U0001f600"])[0]) == "ж & \U0001f600"


def test_what_is_no_vocabulary_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no vocabulary"):
        read_vocabulary(tmp_path / "missing.model")
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(ValueError, match="no sentencepiece model"):
        read_vocabulary(tmp_path / "text.model")
    with pytest.raises(ValueError, match="must begin with '<pad>_'"):
        read_vocabulary(subwords_file(tmp_path, ["a_", "b_"]))
    with pytest.raises(ValueError, match="cannot spell 'q'"):
        read_vocabulary(subwords_file(tmp_path, SUBWORDS)).encode(["q"])


def test_a_subwords_file_is_refused_with_its_line(tmp_path):
    path = subwords_file(tmp_path)
    path.write_text("<pad>_\n<EOS>_\nHaus_\n")
    with pytest.raises(ValueError, match=r"line 1 of .*\.subwords is <pad>_, without quotes; .* in quotes: '<pad>_'"):
        read_vocabulary(path)
    path.write_bytes("'<pad>_'\n'<EOS>_'\n'Tür_'\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 3 of .*\.subwords is not UTF-8"):
        read_vocabulary(path)


@pytest.mark.parametrize("size", [0, 2, 100, 259 + 5])
def test_a_vocabulary_too_small_says_so(size):
    with pytest.raises(ValueError, match=rf"got (a vocabulary of )?{size}; ask for more"):
        train_vocabulary(lambda: [("ja", "nein")], size)  # 3 ids, 256 bytes, 6 characters: j a n e i and the space


def test_a_vocabulary_too_large_says_what_the_text_has():
    with pytest.raises(ValueError, match=r"at most, got 5000; ask for fewer") as error:
        train_vocabulary(lambda: [("ja", "nein")], 5_000)
    most = int(re.search(r"of (\d+) ids at most", str(error.value))[1])
    assert SentencePiece(train_vocabulary(lambda: [("ja", "nein")], most)).size == most


@pytest.mark.parametrize("pairs", [[], [("", "")]])
def test_no_text_makes_no_vocabulary(pairs):
    with pytest.raises(ValueError, match="there is no text to make a vocabulary of"):
        train_vocabulary(lambda: pairs, 300)


def test_other_ids_for_padding_and_end_are_refused():
    import io

    import sentencepiece

    other = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([en for en, _ in PAIRS]), model_writer=other, vocab_size=40, minloglevel=2
    )
    with pytest.raises(ValueError, match=r"train it with --pad_id=0 --eos_id=1"):
        SentencePiece(other.getvalue())
