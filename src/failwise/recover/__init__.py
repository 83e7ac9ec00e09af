"""What takes over when a policy fails, and when it hands back."""
