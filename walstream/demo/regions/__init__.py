"""The demo of two regions: both are written to, one is cut off, and both end with the same rows."""
