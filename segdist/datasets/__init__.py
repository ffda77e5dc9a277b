"""What is stored: rows, shards and their cache; built, merged, split, near duplicates found."""
