"""A model on its way to who uses it: one zip, what is in it, and its use there."""
