"""The trust boundary: the one way out of a site, and the record of what took it."""
