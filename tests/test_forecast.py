import pytest

from cvae.forecast import TYPICAL, Forecast, duration


def test_what_is_left_takes_what_such_parts_have_taken():
    forecast = Forecast({"baseline": 3, "CVAE": 4, "evaluation": 2})
    assert forecast.seconds_left() is None
    forecast.took("baseline", 2.0)
    rest = 2 * TYPICAL["baseline"] + 4 * TYPICAL["CVAE"] + 2 * TYPICAL["evaluation"]
    assert forecast.seconds_left() == pytest.approx(2.0 * rest)
    forecast.took("baseline", 4.0)
    forecast.drop("baseline", 1)
    forecast.took("CVAE", 7.0)
    forecast.took("evaluation", 5.0)
    assert forecast.seconds_left() == pytest.approx(3 * 7.0 + 5.0)
    forecast.took("CVAE", 9.0)
    forecast.drop("CVAE", 2)
    forecast.took("evaluation", 7.0)
    assert forecast.seconds_left() == 0


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3600, "1 h 0 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
