"""A hospital's own side: its file, rules, key, subjects and prepared scans."""
