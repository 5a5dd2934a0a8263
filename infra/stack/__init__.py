"""The local stack: its parts, who starts and watches them, what it writes down of itself."""
