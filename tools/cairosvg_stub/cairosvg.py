"""Stands in for cairosvg where there is no cairo: it can be imported, and says what is missing when it is used."""


def svg2png(*args: object, **options: object) -> None:
    """Raise: drawing needs cairo."""
    raise OSError("no cairo library: install libcairo2, then `pip install --force-reinstall --no-deps 'cairosvg>=2'`")
