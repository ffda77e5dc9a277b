"""A distribution of somebody else, installed beside ours."""
