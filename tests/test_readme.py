"""The README's promises that a machine can check; its code runs in test_pages.py."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_has_exactly_two_commands_to_set_up_and_run():
    ends = [block.strip().rsplit("/", 1)[1] for block in blocks("sh")]
    assert ends == ["densecrf-rnn demo", "python -m pytest -n auto"]


def test_ci_calls_the_test_command_of_the_readme():
    assert blocks("sh")[1].strip() in (ROOT / ".ci" / "run").read_text()
