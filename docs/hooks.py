"""Pages of the site made from what stands elsewhere: the command line's help, and documents of other folders."""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "engines/README.md": "cpp.md",
    "benchmarks/README.md": "figures.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text()
        files.append(File.generated(config, page, content=_linked(text, posixpath.dirname(source))))
    files.append(File.generated(config, "cli.md", content=_command_line()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return markdown if page.file.generated_by else _linked(markdown, "docs")


def _linked(text: str, folder: str) -> str:
    """A document of that folder of the repository with its links to others; what is no page is named."""

    def link(found: re.Match[str]) -> str:
        what, target, anchor = found[1], found[2], found[3] or ""
        if ":" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        page = ELSEWHERE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is not None:
            return f"[{what}]({page}{anchor})"
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"a document in {folder or 'the top folder'} refers to {target}")
        return what if what.strip("`") == path.rstrip("/") else f"{what} (`{path}`)"

    return LINK.sub(link, text)


def _command_line() -> str:
    """Every command with its options, as `--help` has them."""
    sys.path[:0] = [str(ROOT), str(ROOT / "cli")]
    import typer.cli
    from typer._click import Context

    from ncdeploy_cli.main import app

    command = typer.main.get_command(app)
    text = typer.cli.get_docs_for_click(obj=command, ctx=Context(command, info_name="ncdeploy"), name="ncdeploy")
    text = re.sub(r"\[/?bold\]", "`", text).replace("# `ncdeploy`", "# Command line", 1)
    return re.sub(r"\[default: \((.*?)\)([;\]])", r"[default: \1\2", text)
