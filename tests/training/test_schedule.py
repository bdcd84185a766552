"""Which pair is trained at which step."""

from collections import Counter

import pytest

from omnilatent.training import ALL_PAIRS, PAST_TO_FUTURE, UNIFORM, Pair, PairSchedule, Phase
from omnilatent.training.arguments import OmniLatentTrainingArguments
from omnilatent.training.curriculum import curriculum_phases

EVERYTHING = {"text", "audio", "image", "video", "past", "future"}


def curriculum(total_steps, available=EVERYTHING, **shares):
    args = OmniLatentTrainingArguments(use_cpu=True, **shares)
    return PairSchedule(curriculum_phases(args), total_steps, seed=5, available=available)


def drawn(schedule, steps):
    return {str(pair) for step in steps for pair in schedule.draw(step).pairs}


def test_draw_is_a_pure_function_of_seed_and_step():
    first, second = (PairSchedule(UNIFORM, 100, seed=3, targets_per_step=2) for _ in range(2))
    forwards = [first.draw(step) for step in range(100)]
    backwards = [second.draw(step) for step in reversed(range(100))]
    assert forwards == backwards[::-1]
    other_seed = PairSchedule(UNIFORM, 100, seed=4, targets_per_step=2)
    assert forwards != [other_seed.draw(step) for step in range(100)]


def test_every_block_of_sixteen_steps_covers_all_pairs_in_another_order():
    schedule = PairSchedule(UNIFORM, 160, seed=0)
    blocks = [[schedule.draw(step).pairs[0] for step in range(start, start + 16)] for start in range(0, 160, 16)]
    assert all(set(block) == set(ALL_PAIRS) for block in blocks)
    assert len(set(map(tuple, blocks))) == 10


@pytest.mark.parametrize("targets", [2, 3, 4])
def test_several_targets_are_distinct_and_cover_the_pairs_evenly(targets):
    schedule = PairSchedule(UNIFORM, 1600, seed=0, targets_per_step=targets)
    draws = [schedule.draw(step) for step in range(1600)]
    assert all(len(set(draw.targets)) == targets for draw in draws)
    counts = Counter(pair for draw in draws for pair in draw.pairs)
    expected = 1600 * targets / 16
    assert set(counts) == set(ALL_PAIRS)
    # of each count 100 are certain, the rest is random: five standard deviations of a binomial
    assert all(abs(count - expected) <= 5 * expected**0.5 for count in counts.values())


def test_phases_have_the_shares_of_the_specification():
    schedule = curriculum(1000)
    assert schedule.starts == (0, 100, 350, 600, 750)
    numbers = [schedule.phase_at(step).number for step in (0, 99, 100, 349, 350, 599, 600, 749, 750, 999, 5000)]
    assert numbers == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]


def test_each_phase_samples_what_it_says():
    schedule = curriculum(1000)
    warmup = {"video->video", "audio->audio"}
    crossmodal = warmup | {"video->audio", "audio->video", "image->audio", "audio->image"}
    temporal = crossmodal | {"past->future"}
    grounding = temporal | {"video->text", "audio->text"}
    joint = {str(pair) for pair in ALL_PAIRS} | {"past->future"}
    assert drawn(schedule, range(100)) == warmup
    assert drawn(schedule, range(100, 350)) == crossmodal
    assert drawn(schedule, range(350, 600)) == temporal
    assert drawn(schedule, range(600, 750)) == grounding
    assert drawn(schedule, range(750, 1000)) == joint
    assert len(joint) == 17


def test_shares_are_divided_by_their_sum():
    schedule = curriculum(105, warmup_fraction=0.05, crossmodal_fraction=0.30, temporal_fraction=0.30)
    assert schedule.starts == (0, 5, 35, 65, 80)


def test_share_of_zero_leaves_a_phase_out():
    schedule = curriculum(100, warmup_fraction=0, temporal_fraction=0)
    assert [phase.name for phase in schedule.phases] == ["cross-modal", "grounding", "joint"]
    assert schedule.missing_phases == ()


def test_phase_without_its_data_gives_its_steps_to_the_others():
    schedule = curriculum(850, available=EVERYTHING - {"text"})
    assert schedule.missing_phases == ("grounding",)
    assert [phase.number for phase in schedule.phases] == [1, 2, 3, 5]
    assert schedule.starts == (0, 100, 350, 600)
    assert not any("text" in pair for pair in drawn(schedule, range(850)))


def test_without_sound_only_pictures_and_text_are_trained():
    schedule = curriculum(1000, available=EVERYTHING - {"audio"})
    assert schedule.missing_phases == ("cross-modal",)
    assert drawn(schedule, range(10)) == {"video->video"}
    assert Pair("audio", "audio") in schedule.missing
    assert not any("audio" in pair for pair in drawn(schedule, range(1000)))


def test_short_run_still_ends_in_the_last_phase():
    schedule = curriculum(3)
    assert [schedule.phase_at(step).number for step in range(3)] == [2, 3, 5]


def test_nothing_to_train_is_an_error_that_names_the_data():
    with pytest.raises(ValueError, match="text"):
        PairSchedule([Phase("own", 1.0, (PAST_TO_FUTURE,), (PAST_TO_FUTURE,))], 10, 0, available={"text"})


@pytest.mark.parametrize("steps, targets", [(0, 1), (1, 0)])
def test_counts_below_one_are_refused(steps, targets):
    with pytest.raises(ValueError, match="counted from 1"):
        PairSchedule(UNIFORM, steps, 0, targets)


@pytest.mark.parametrize("text", ["video", "video->smell", "a->b->c", ("video",)])
def test_pair_that_does_not_exist_is_refused(text):
    with pytest.raises(ValueError, match="video->audio"):
        Pair.parse(text)
