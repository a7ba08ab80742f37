"""Programs that show the whole: the demo and the built Bento."""
