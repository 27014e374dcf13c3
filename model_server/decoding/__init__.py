"""Worker processes in which every picture of a stranger is decoded, with a budget of time and memory each."""
