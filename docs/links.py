"""A hook of MkDocs: a link of a page that leaves docs/ becomes one to the file in the repository.

So the pages read the same in the repository and on the site. A link to a file that is not there is an error.
"""

import pathlib
import re
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = pathlib.Path(__file__).parents[1]
BRANCH = "main"
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrites the links of one page."""
    source = pathlib.Path(page.file.abs_src_path)

    def rewritten(found: re.Match[str]) -> str:
        target = (source.parent / found[1]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return found[0]
        if not target.is_relative_to(ROOT) or not target.exists():
            raise PluginError(f"{page.file.src_uri}: the link {found[1]} leads to no file of the repository")
        kind = "tree" if target.is_dir() else "blob"
        return f"{config.repo_url}/{kind}/{BRANCH}/{target.relative_to(ROOT).as_posix()}{found[2] or ''}"

    return LINK.sub(rewritten, markdown)
