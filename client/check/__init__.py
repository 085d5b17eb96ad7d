"""What can be known before a site joins."""
