"""A local web page on which people correct answers segment by segment."""
