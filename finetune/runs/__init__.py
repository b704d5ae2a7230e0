"""What a run leaves: its folder, its figures, its report."""
