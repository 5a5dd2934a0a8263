"""What an alert's repair does."""
