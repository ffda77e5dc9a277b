"""A sweep file: composed, read line by line, validated, explained."""
