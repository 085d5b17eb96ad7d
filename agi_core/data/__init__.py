"""Scans and what becomes of them: files, layouts, site maps, the cache, slices as tensors, who is trained on."""
