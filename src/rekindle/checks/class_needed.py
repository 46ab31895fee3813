"""A whole model was pickled, and its class is needed to load it."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, listed
from rekindle.finding import Finding, Severity
from rekindle.tree import Module, distinct_nodes

CODE, NAME, SINCE = "RK-FILE-67", "class-needed", "0.1"
WHY = (
    "torch.save(model) writes the names of the classes and none of their code; where they cannot be imported, "
    "torch.load ends in `{error}`"
)
DO = "{fix}"


def check(case: Case) -> Iterator[Finding]:
    """Name the classes of saved modules that are not torch's own."""
    paths = list(
        dict.fromkeys(
            node.type.path
            for node in distinct_nodes(case.opened.tree)
            if isinstance(node, Module) and not node.type.path.startswith(("torch.", "__torch__."))
        )
    )
    if not paths or case.opened.format not in {"torch-zip", "torch-stream", "torch-tar", "pickle"}:
        return
    module, _, name = paths[0].rpartition(".")
    error = (
        f"AttributeError: Can't get attribute '{name}' on <module '__main__'>"
        if module == "__main__"
        else f"ModuleNotFoundError: No module named '{module.partition('.')[0]}'"
    )
    sources = case.opened.facts.get("sources")
    carried = len(sources) if isinstance(sources, dict) else 0
    yield Finding(
        CODE,
        NAME,
        Severity.WARNING,
        f"a whole model, not its weights: loading it needs the class{'es' if len(paths) > 1 else ''} {listed(paths)}"
        + (f"; the file carries the source code of {carried:,} classes" if carried else ""),
        why=WHY.format(error=error),
        do=DO.format(fix=case.fix),
    )
