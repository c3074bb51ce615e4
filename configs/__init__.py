"""Every knob of a run (`schema`) and the runs that change some of them."""
