"""The README's promises that a machine can check; its code runs in test_pages.py."""

import pages

BLOCKS = [block.text.strip() for block in pages.blocks(pages.ROOT / "README.md", "sh")]


def test_readme_has_exactly_two_commands_to_set_up_and_run():
    ends = [block.rsplit("/", 1)[1] for block in BLOCKS]
    assert ends == ["densecrf-rnn demo", "python -m pytest -n auto"]


def test_ci_calls_the_test_command_of_the_readme():
    assert BLOCKS[1] in (pages.ROOT / ".ci" / "run").read_text()
