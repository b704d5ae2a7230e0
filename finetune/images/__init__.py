"""Labelled images: read, split, and made the task of a recipe."""
