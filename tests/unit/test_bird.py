"""What is known of a BIRD that does not always answer; `tests/netns/test_bird.py` has the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import DataplaneError
from live.bird import Bird
from tests.unit.fake_bird import FakeBird


def test_a_configuration_whose_answer_is_lost_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    with FakeBird(tmp_path) as fake:
        bird = Bird(tmp_path)
        assert bird.configure("A")
        assert not bird.configure("A")
        fake.mute = True
        with pytest.raises(DataplaneError, match="does not answer 'configure"):
            bird.configure("B")
        fake.mute = False
        assert fake.running == "B", "it obeyed, and nobody knows"
        assert bird.configure("A")
        assert fake.running == "A"
        bird.close()
