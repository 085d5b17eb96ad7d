"""A small segmentation network, with which the use of synthetic volumes is measured."""
