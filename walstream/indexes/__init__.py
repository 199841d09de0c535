"""Indexes as people care for them: built on a base table that has rows, compared with it, mended, dropped."""
