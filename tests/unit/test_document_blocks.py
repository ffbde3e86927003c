"""The extraction of runnable code from Markdown."""

from __future__ import annotations

import pytest

from tests.document_blocks import blocks, commands

TEXT = """\
Text with `code`.

```console run
$ tailrace status
kafka is up
$ tailrace up \\
    --foreground
```

```python
print(1)
```
````text
```
inner
```
````
"""


def test_blocks_have_language_mark_line_and_text() -> None:
    console, python, text = blocks(TEXT, "page.md")
    assert (console.language, console.run, console.name) == ("console", True, "page.md:3")
    assert (python.language, python.run, python.text) == ("python", False, "print(1)\n")
    assert text.text == "```\ninner\n```\n"


def test_commands_are_the_lines_behind_the_prompt() -> None:
    assert commands(blocks(TEXT)[0]) == ["tailrace status", "tailrace up --foreground"]


def test_a_fence_that_is_not_closed_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"page\.md:1"):
        blocks("```python\nx = 1\n", "page.md")
