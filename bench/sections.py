"""BENCHMARKS.md: each command writes its own section and leaves the others."""

from penjing import ROOT

PATH = ROOT / "BENCHMARKS.md"
SECTIONS = ("inference", "inference-amx", "inference-avx2", "training", "training-avx2")
HEAD = """# Benchmarks

Written by the commands of [bench/](bench/README.md); not by hand. Every ratio is of engines that took turns in one run.
"""


def write_section(name: str, text: str) -> None:
    """Puts `text` between the section's two marks."""
    old = PATH.read_text() if PATH.is_file() else ""
    bodies = {section: between(old, section) for section in SECTIONS} | {name: text.strip()}
    marked = [f"<!-- {section} -->\n{body}\n<!-- end of {section} -->\n" for section, body in bodies.items() if body]
    PATH.write_text("\n".join([HEAD, *marked]))


def between(text: str, section: str) -> str:
    """What stands in a section, or nothing."""
    _, found, rest = text.partition(f"<!-- {section} -->\n")
    return rest.partition(f"\n<!-- end of {section} -->")[0] if found else ""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
