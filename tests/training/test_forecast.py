import pytest

from cvae.training.forecast import TYPICAL_COST, Forecast

TASKS = {"baseline": 3, "CVAE": 4, "evaluation": 1}


def test_what_is_left_takes_as_long_as_such_tasks_have_taken():
    forecast = Forecast(["a", "b"], TASKS)
    assert forecast.tasks_left() == 16
    assert forecast.seconds_left() is None and forecast.time_left() == []
    forecast.record("a", "baseline", 2.0)
    rest = 5 * TYPICAL_COST["baseline"] + 8 * TYPICAL_COST["CVAE"] + 2 * TYPICAL_COST["evaluation"]
    assert forecast.seconds_left() == pytest.approx(2.0 * rest)
    forecast.record("b", "baseline", 4.0)
    forecast.drop("a", "baseline", 2)
    forecast.record("a", "CVAE", 7.0)
    forecast.record("a", "evaluation", 5.0)
    assert forecast.seconds_left() == pytest.approx(2 * 3.0 + 7 * 7.0 + 5.0)
    forecast.drop("b", "baseline", 2)
    forecast.drop("a", "CVAE", 3)
    forecast.drop("b", "CVAE", 4)
    forecast.record("b", "evaluation", 7.0)
    assert forecast.seconds_left() == 0 == forecast.tasks_left()


def test_words_count_what_has_passed_since():
    forecast = Forecast(["a"], {"CVAE": 3})
    forecast.record("a", "CVAE", 60.0)
    assert forecast.time_left() == ["at most 02:00 left"]
    assert forecast.time_left(90) == ["at most 00:30 left"]
    assert forecast.time_left(900) == ["at most 00:00 left"]


@pytest.mark.parametrize("jobs", [1, 2, 3, 4])
@pytest.mark.parametrize("lengths", [[3, 3, 3], [1, 2, 5], [5, 2, 1], [4]])
def test_jobs_that_begin_when_one_has_ended_take_no_longer(jobs, lengths):
    """Compare with the time that they take in this order, each epoch a second."""
    forecast = Forecast(map(str, range(len(lengths))), {"CVAE": max(lengths) + 1}, jobs)
    for setting, length in enumerate(lengths):
        forecast.drop(str(setting), "CVAE", max(lengths) - length)
        forecast.record(str(setting), "CVAE", 1.0)
    ends = [0] * jobs
    for length in lengths:
        ends[ends.index(min(ends))] += length
    left = forecast.seconds_left()
    assert left is not None and max(max(lengths), sum(lengths) / jobs) <= max(ends) <= left <= sum(
        lengths
    )
