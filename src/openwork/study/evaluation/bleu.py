"""BLEU twice: as sacrebleu counts it today, and as Gale et al. 2019 (arXiv 1902.09574) did.

Papineni et al. 2002; Post 2018, arXiv 1804.08771. Gale et al. ran tensor2tensor's script: Moses' tokens, the parts of
compounds with a hyphen as separate words, then multi-bleu.perl: no smoothing, one reference, case matters.
"""

import re
from collections.abc import Sequence
from typing import Any


def sacre_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """(BLEU, 0-100, sacrebleu's signature) of plain text.

    Args:
        hypotheses: The translations.
        references: One for each of them.

    Raises:
        ValueError: Unless there are as many hypotheses as references, and at least one.
    """
    metric = _metric(hypotheses, references)
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return float(score), str(metric.get_signature())


def tokenized_bleu(hypotheses: Sequence[str], references: Sequence[str], language: str = "de") -> float:
    """BLEU, 0-100, of plain text, tokenised by Moses' rules and with compounds split, without smoothing.

    Unicode punctuation becomes ASCII in the hypotheses alone, as in the original.

    Args:
        hypotheses: The translations.
        references: One for each of them.
        language: Whose rules of tokenisation apply.

    Raises:
        ValueError: As for `sacre_bleu`, and for a language without rules, for which sacremoses takes those of English.
    """
    metric = _metric(hypotheses, references, tokenize="none", smooth_method="none", force=True)
    try:
        from sacremoses import MosesPunctNormalizer, MosesTokenizer
        from sacremoses.corpus import NonbreakingPrefixes
    except ImportError as error:
        raise ImportError('tokenised BLEU needs sacremoses: pip install "openwork[study]"') from error
    if language not in (known := {*NonbreakingPrefixes().available_langs.values()}):
        raise ValueError(
            f"there are no rules for the language {language!r}; give one of {', '.join(sorted(known))}, or en, whose "
            "rules Moses takes for others"
        )
    tokenizer, normalizer = MosesTokenizer(lang=language), MosesPunctNormalizer(lang=language)

    def tokens(text: str) -> str:
        return split_compounds(tokenizer.tokenize(text, return_str=True))

    ours = [tokens(normalizer.replace_unicode_punct(text)) for text in hypotheses]
    return float(metric.corpus_score(ours, [[tokens(text) for text in references]]).score)


def signature() -> str:
    """The signature that sacrebleu gives the settings of `sacre_bleu`."""
    return sacre_bleu([""], [""])[1]


def split_compounds(text: str) -> str:
    """X-Y becomes X ##AT##-##AT## Y, from the left: of a-b-c only the first hyphen, as the original's pattern does."""
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", text)


def _metric(hypotheses: Sequence[str], references: Sequence[str], **settings: Any) -> Any:
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            f"there are {len(hypotheses)} translations for {len(references)} references; BLEU needs one for each"
        )
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ImportError('BLEU needs sacrebleu: pip install "openwork[study]"') from error
    return BLEU(**settings)
