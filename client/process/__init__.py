"""The programs that run at a hospital, and what its terminal shows of them."""
