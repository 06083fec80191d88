from gnnexport.bundle.report_schema import Report, Step
from gnnexport.report.headings import doings


def _steps(*specs):
    return Report(steps=tuple(Step(name=spec, kept=True, notes=("done",)) for spec in specs))


def test_what_a_pass_did_is_told_by_its_name():
    """Options stand in the table of passes already."""
    assert doings(_steps("a2q{bits=2,penalty=1.0}", "fold-norms")) == ("a2q: done", "fold-norms: done")


def test_settings_that_were_tried_in_turn_are_told_apart():
    """Of a pass that ran twice with other options, these say which."""
    assert doings(_steps("a2q{bits=2}", "a2q{bits=4}")) == ("a2q{bits=2}: done", "a2q{bits=4}: done")
