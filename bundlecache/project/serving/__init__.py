"""What a server keeps of a workspace and a run, and what it answers."""
