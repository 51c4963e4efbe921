"""Annotated texts as one HTML page that needs nothing else, `build_page`, and plots of scores."""

from .page import build_page

__all__ = ["build_page"]
