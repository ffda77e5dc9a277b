"""What segdist finds here through entry points: `family`, `corners` and `shrunken_box`."""
