"""How right an answer is, where people were asked and did not all say the same."""

from collections import Counter
from collections.abc import Sequence

ENOUGH = 3  # people who must agree with an answer for it to be wholly right


def answer_scores(answers: Sequence[str]) -> dict[str, float]:
    """
    VQA accuracy (Antol et al., 2015) of each answer that was given: the mean over all but one of the people of
    min(1, how many of them said so / 3).

    With ten people: .3, .6, .9 and 1 for an answer that 1, 2, 3 and more gave. Where fewer than four were asked, all
    but one of them must agree; a single one is right.

    Example:

    ```python
    >>> from omnilatent.training.data import answer_scores

    >>> answer_scores(["red"])
    {'red': 1.0}
    >>> {answer: round(score, 2) for answer, score in answer_scores(["red"] * 8 + ["pink"] * 2).items()}
    {'red': 1.0, 'pink': 0.6}
    ```
    """
    people, counts = len(answers), Counter(answers)
    if people == 1:
        return {answers[0]: 1.0}
    enough = min(ENOUGH, people - 1)
    # those left out who said so leave count - 1 others, the rest leave all that said so
    return {
        answer: (count * min(1.0, (count - 1) / enough) + (people - count) * min(1.0, count / enough)) / people
        for answer, count in counts.items()
    }
