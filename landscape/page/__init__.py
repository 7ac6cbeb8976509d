"""The parts of the page, each as HTML or as data for its script; `report` puts them together."""
