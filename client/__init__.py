"""What runs at a hospital: it alone reads scans."""
