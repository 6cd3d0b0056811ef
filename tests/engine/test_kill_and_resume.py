"""`kill -9` at random moments, in short; the long version is the script itself."""

import kill_and_resume
import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("source", "seed"), [("device", 0), ("grain", 1)])
def test_run_that_is_killed_at_random_moments_ends_as_if_nobody_had(source, seed):
    assert kill_and_resume.main(["--kills", "6", "--source", source, "--seed", str(seed)]) == 0
