"""Answers on a terminal."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

STAGES = ("encode", "search", "score", "generate", "total")
TEXT_CHARS = 88


def show_answer(console: Console, question: str, body: dict[str, Any], expected: str | None = None) -> None:
    """The answer, the passages it came from with their way through reranking, and the time per stage."""
    parts: list[RenderableType] = [_headline(body, expected), _passages(body), Text(_footer(body), style="dim")]
    console.print(Panel(Group(*parts), title=f"[bold]{escape(question)}[/]", title_align="left", border_style="cyan"))


def _headline(body: dict[str, Any], expected: str | None) -> Text:
    text = Text(body["answer"], style="yellow" if body["abstained"] else "bold green")
    if expected is not None:
        text.append(f"   (expected: {expected})", style="dim")
    for kind in body["degraded"]:
        text.append(f"   degraded: {kind}", style="red")
    return text


def _passages(body: dict[str, Any]) -> Table:
    cited = {source["id"] for citation in body["citations"] for source in citation["sources"]}
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name, justify in (("rank", "right"), ("was", "right"), ("P(True)", "right"), ("passage", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for passage in body["passages"]:
        score = passage["relevance_score"]
        mark = "[green]✔[/] " if passage["id"] in cited else "  "
        table.add_row(
            str(passage["rank"]), _move(passage), "-" if score is None else f"{score:.3f}",
            Text.from_markup(mark).append(f"{passage['title']}: ", style="bold").append(_short(passage["text"])),
            style="" if passage["in_context"] else "dim",
        )  # fmt: skip
    return table


def _move(passage: dict[str, Any]) -> str:
    before, after = passage["retrieval_rank"], passage["rank"]
    arrow = "↑" if after < before else "↓" if after > before else "="
    return f"{before}{arrow}"


def _short(text: str) -> str:
    return text if len(text) <= TEXT_CHARS else text[:TEXT_CHARS].rsplit(" ", 1)[0] + " …"


def _footer(body: dict[str, Any]) -> str:
    timings = body["timings_ms"]
    stages = "  ".join(f"{name} {timings[name]:.0f} ms" for name in STAGES if name in timings)
    usage = body["usage"]
    return f"{stages}   pairs scored {usage['pairs_scored']}, tokens {usage['total_tokens']}"
