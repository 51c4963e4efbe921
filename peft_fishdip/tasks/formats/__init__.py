"""Annotated texts in the formats of annotation tools: one format a file, `read` and `write` for all of them.

Every reader gives a list of `Document`, and every writer takes one. A document holds the text as it is in the file,
with spans that count its characters; `to_examples` makes records of it, which hold tokens.
"""
