"""What happens to a teacher's masks, whoever the teacher is: pure functions over masks and samples."""
