"""Self-contained pages from templates that share one style sheet."""

import jinja2

from segdist.core.redaction import redacted_value
from segdist.core.text import counted
from segdist.pages.leaderboard import number


def render(template: str, **values: object) -> str:
    """A page from a template of this package; text is escaped.

    Args:
        template: its file name.
        values: what it shows; one that is missing is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segdist.pages"),
        autoescape=True,
        finalize=redacted_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "score": score,
        "signed": signed,
        "duration": duration,
        "counted": counted,
    }
    return environment.get_template(template).render(**values)


def score(value: float | None) -> str:
    """Three digits, or a dash."""
    return "\u2013" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Three digits with their sign, or nothing."""
    return "" if value is None else f"{value:+.3f}".replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
