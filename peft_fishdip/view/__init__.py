"""Annotated texts as one HTML page that needs nothing else: `build_page`."""

from .page import build_page

__all__ = ["build_page"]
