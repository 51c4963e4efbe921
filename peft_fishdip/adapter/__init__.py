"""What an adapter is: its sparse deltas, its files, and how they are installed."""
