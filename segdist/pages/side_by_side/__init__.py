"""The trials of a sweep beside each other, on the same validation images: a page, and files that it opens as needed."""

from segdist.pages.side_by_side.label_maps import LabelMap, found_map
from segdist.pages.side_by_side.page import FOLDER, PAGE, Column, ShownImages, Written, write_side_by_side

__all__ = ["FOLDER", "PAGE", "Column", "LabelMap", "ShownImages", "Written", "found_map", "write_side_by_side"]
