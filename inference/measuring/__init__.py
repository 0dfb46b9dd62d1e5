"""What requests and the engine came to: measured in memory, written to the database by a thread of its own."""
