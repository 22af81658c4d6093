"""The page at `/`: files for a browser, served as they are."""
