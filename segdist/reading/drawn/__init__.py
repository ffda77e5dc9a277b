"""What people draw in annotation tools: shapes, the files of each tool, and how they become samples."""
