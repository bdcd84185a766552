"""How good written texts and answers are: BLEU, ROUGE, exact matches, VQA accuracy. All run offline."""

import re
from collections.abc import Sequence

from ..data import answer_scores

ROUGE_KINDS = ("rouge1", "rouge2", "rougeL")


def plain_words(text: str) -> str:
    """
    Lower case, and no white space around punctuation, which tokenizers of words do not keep.

    Example:

    ```python
    >>> from omnilatent.training.finetuning.text_metrics import plain_words

    >>> plain_words("A Red t - shirt for 3. 50"), plain_words(" a red t-shirt for 3.50")
    ('a red t-shirt for 3.50', 'a red t-shirt for 3.50')
    ```
    """
    return re.sub(r"\s*([^\w\s])\s*", r"\1", " ".join(text.lower().split()))


def caption_metrics(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """
    BLEU of the corpus by sacrebleu (Post, 2018), and the mean ROUGE F1 (Lin, 2004) with the best reference of each
    text by rouge-score; and `exact`, the share that is word for word a reference. All from 0 to 1, and of `plain_words`.

    Args:
        written: Texts.
        references: For each of them one or several.

    Raises:
        ValueError: for none, or different numbers of them.

    Example:

    ```python
    >>> from omnilatent.training.finetuning import caption_metrics

    >>> figures = caption_metrics(["a red cat on a mat"], [["a red cat on a mat", "the cat"]])
    >>> {name: round(value, 3) for name, value in figures.items()}
    {'bleu': 1.0, 'rouge1': 1.0, 'rouge2': 1.0, 'rougeL': 1.0, 'exact': 1.0}
    ```
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise ImportError(
            "BLEU and ROUGE need sacrebleu and rouge-score: pip install 'omnilatent[finetune]'"
        ) from error

    if len(written) != len(references) or not written or not all(references):
        raise ValueError(
            f"Expected references for each of the texts, got {len(references)} lists for {len(written)} texts."
        )
    written = [plain_words(text) for text in written]
    references = [[plain_words(text) for text in given] for given in references]
    most = max(map(len, references))
    # sacrebleu has a list for each first, second, ... reference, `None` where a text has fewer
    columns = [[given[place] if place < len(given) else None for given in references] for place in range(most)]
    bleu = corpus_bleu(written, columns).score / 100
    scorer = RougeScorer(ROUGE_KINDS, use_stemmer=False)
    scores = [scorer.score_multi(given, text) for text, given in zip(written, references)]
    rouge = {kind: sum(score[kind].fmeasure for score in scores) / len(scores) for kind in ROUGE_KINDS}
    exact = sum(text in given for text, given in zip(written, references)) / len(written)
    return {"bleu": bleu, **rouge, "exact": exact}


def vqa_accuracy(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """
    Mean score of the predicted answers among those that people gave, see `answer_scores`; with one answer a question,
    the share of right ones. Answers count as the same that are the same in `plain_words`.

    Args:
        predicted: An answer to each question.
        answers: For each question, what one or several people said.

    Example:

    ```python
    >>> from omnilatent.training.finetuning import vqa_accuracy

    >>> vqa_accuracy(["red", "two"], [["red"], ["three"]])
    0.5
    ```
    """
    if len(predicted) != len(answers) or not answers:
        raise ValueError(f"Expected as many answers as questions, got {len(predicted)} and {len(answers)}.")
    scores = [
        answer_scores([plain_words(answer) for answer in given]).get(plain_words(one), 0.0)
        for one, given in zip(predicted, answers)
    ]
    return sum(scores) / len(scores)
