"""A suite of scenes of every kind a frame may be of, to score finders on: specification, oracle and figures."""
