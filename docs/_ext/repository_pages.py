"""Make pages of the repository's own Markdown files, and keep their links working on the site.

The pages of docs/ link to each other and to files elsewhere in the repository by relative paths,
so that they can be read there. On the site a link to a page leads to that page, and a link to any
other file offers that file.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Files outside docs/ that become pages, by the name of the page in docs/generated/.
PAGES = {
    "readme": "README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "fcn8s": "examples/fcn8s/README.md",
    "body_parts": "examples/body_parts/README.md",
    "body_parts_large": "examples/body_parts/results/large/README.md",
    "samples": "densecrf_rnn/samples/README.md",
}
_PAGE_OF = {ROOT / file: DOCS / "generated" / f"{page}.md" for page, file in PAGES.items()}
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")


def relinked(text: str, source: Path, page: Path) -> str:
    """Return `text` of the file `source` with its relative links as the page `page` needs them.

    Text in brackets that names no file of the repository, such as code, is kept.
    """

    def target(found: re.Match[str]) -> str:
        path = (source.parent / found[1]).resolve()
        if (path / "README.md") in _PAGE_OF:
            path = path / "README.md"
        if not path.exists():
            return found[0]
        path = _PAGE_OF.get(path, path)
        return Path(os.path.relpath(path, page.parent)).as_posix() + (found[2] or "")

    return _LINK.sub(target, text)


def write_pages(app: Sphinx) -> None:
    """Write the pages of PAGES into docs/generated/."""
    for file, page in _PAGE_OF.items():
        write_if_changed(page, relinked(file.read_text(encoding="utf-8"), file, page))


def write_if_changed(page: Path, text: str) -> None:
    """Write a page unless it has this text already: Sphinx then need not read it again."""
    page.parent.mkdir(exist_ok=True)
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def relink(app: Sphinx, name: str, text: list[str]) -> None:
    """Rewrite the links of a page of docs/ when Sphinx reads it."""
    page = DOCS / f"{name}.md"
    if page.exists() and page not in _PAGE_OF.values():
        text[0] = relinked(text[0], page, page)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", relink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
