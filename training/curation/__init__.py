"""An archive to a data set: pairs, facts, labels, and a sheet to review them on."""
