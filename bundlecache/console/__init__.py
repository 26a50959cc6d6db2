"""What a terminal shows: options, tables, progress bars and messages."""
