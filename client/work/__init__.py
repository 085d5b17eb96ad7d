"""What a site does with a request."""
