"""One run from data to samples, with pictures and a page that show what happened."""
